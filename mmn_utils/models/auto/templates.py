"""The text around a picture: a chat template of the processor's, or one that was given."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import TemplateError

from mmn_utils.presets import from_here


def read_template(given: str) -> str:
    """Return a chat template from its text, or from the file that has it.

    A file is plain text, or JSON with the key ``chat_template``, as models come with either.
    ValueError for a text that is neither a template nor the path of a file.
    """
    if "{{" in given or "{%" in given:
        return given
    path = from_here(given)
    if not path.is_file():
        raise ValueError(
            f"chat_template = {given!r} is neither a file nor a template, which has {{{{ or {{% in "
            "it: give either"
        )
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return text
    try:
        return json.loads(text)["chat_template"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has no key chat_template: give the template's file") from error


def fill(processor: Any, chat: list[dict[str, Any]], given: str | None) -> str:
    """Return a chat as a prompt, by a template that was given or by the processor's own.

    ValueError where there is neither, or where the template does not take the chat.
    """
    if not given and getattr(processor, "chat_template", None) is None:
        raise ValueError(
            "there is no processor with a chat template; give template='...', the whole text up "
            "to where the caption begins, with the placeholder of one image, or, where there is a "
            "processor, chat_template='...'"
        )
    options = {"chat_template": read_template(given)} if given else {}
    try:
        return processor.apply_chat_template(chat, add_generation_prompt=True, **options)
    except TemplateError as error:
        raise ValueError(
            f"the chat template does not take a picture and a text: {error}"
        ) from error

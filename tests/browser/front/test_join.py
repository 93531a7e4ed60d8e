"""The front end's modules joined into one script, and what they keep to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmn_utils.browser.front import FOLDER, SCRIPTS, bundle, join, style


def modules(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.js").write_text(text)
    return folder


def test_modules_come_after_those_that_they_need_each_once(tmp_path):
    modules(
        tmp_path,
        a='import { one } from "./b.js";\nimport { two } from "./c.js";\none(two);\n',
        b='import { two } from "./c.js";\nexport function one(x) {\n  return x + two;\n}\n',
        c="export const two = 2;\n",
    )
    script = "const two = 2;\n\nfunction one(x) {\n  return x + two;\n}\n\none(two);\n"
    assert join(tmp_path, "a") == script


NEEDS = 'import { y } from "./b.js";\nimport { z } from "./c.js";\ny(z);\n'


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"b": "const x = 1;\nexport const y = 2;\n", "c": "const x = 3;\nexport const z = 1;\n"},
         r"x is in b\.js and in c\.js"),
        ({"b": 'import { z } from "./c.js";\nexport const y = z;\n',
          "c": 'import { y } from "./b.js";\nexport const z = y;\n'}, "a -> b -> c -> b"),
        ({"b": "const y = 1;\n", "c": "export const z = 1;\n"}, r"\['y'\], not in b\.js"),
        ({"b": 'import * as all from "./c.js";\nexport const y = 1;\n',
          "c": "export const z = 1;\n"}, "only plain imports"),
        ({"b": "export const y = '</script>';\n", "c": "export const z = 1;\n"}, "neither </scr"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_refused(tmp_path, texts, said):
    modules(tmp_path, a=NEEDS, **texts)
    with pytest.raises(ValueError, match=said):
        join(tmp_path, "a")


def test_there_are_two_scripts_and_one_style():
    assert "export default { render };" in bundle("widget")
    assert "export" not in re.findall(r"^\w+", bundle("static"), re.MULTILINE)
    for name in SCRIPTS:
        assert not re.search(r"^import\b", bundle(name), re.MULTILINE)
    with pytest.raises(ValueError, match="'other'; there are static, widget"):
        bundle("other")


def test_every_module_is_in_a_script_and_says_what_it_is():
    for path in FOLDER.glob("*.js"):
        text = path.read_text()
        assert text.startswith("// "), path.name
        head = text.splitlines()[0]
        alone = "export default" in text  # a script by itself
        assert alone or any(head in bundle(name) for name in SCRIPTS), path.name
        assert len(text.splitlines()) <= 300, path.name
        assert max(map(len, text.splitlines())) <= 140, path.name


def test_no_module_makes_markup_of_text_or_asks_the_network():
    text = "".join(map(bundle, SCRIPTS))
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                "new Function", "fetch(url", "XMLHttpRequest", "http://", "https://"):  # fmt: skip
        assert way not in text, way


def test_the_style_stays_below_its_root():
    rules = re.sub(r"/\*.*?\*/", "", style(), flags=re.DOTALL)
    selectors = re.findall(r"(?:^|[{}])\s*([^{}@]+?)\s*\{", rules)
    plain = [one for one in selectors if not re.fullmatch(r"(to|from)", one)]
    assert plain
    for selector in plain:
        for one in re.split(r",(?![^(]*\))", selector):
            assert one.strip().startswith((".mmn", "body.mmn-page")), one

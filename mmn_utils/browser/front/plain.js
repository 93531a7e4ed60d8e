// A line of text in a widget's frame: shown as it is, never as markup or mathematics.
function render({ model, el }) {
  const show = () => { el.textContent = model.get("value"); };
  el.setAttribute("role", "status");
  model.on("change:value", show);
  show();
  return () => model.off("change:value", show);
}

export default { render };

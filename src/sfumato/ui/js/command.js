// The current edit as a command line and as Python code.

const quote = (text) => (/^[\w./,:=@+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);
const stem = (name) => name.replace(/\.\w+$/, "");

/** Names of the files that go with a picture: its mask and its scribble. */
export const files = (name) => ({image: name, mask: `${stem(name)}-mask.png`, scribble: `${stem(name)}-scribble.png`});

/** edit: {name, hasMask, hasScribble, control, options}; control: pictures and their models; options are the request's fields as JSON values. */
export function commandLine({name, hasMask = true, hasScribble, control = [], options}) {
  const {image, mask, scribble} = files(name);
  const {prompt, task, ...rest} = options;
  const words = [`sfumato ${task ?? "edit"}`, quote(image)];
  if (prompt) words.push(quote(prompt));
  if (hasMask) words.push("--mask", quote(mask));
  if (hasScribble) words.push("--scribble", quote(scribble));
  for (const {picture, model} of control) words.push("--control", quote(picture), "--control-model", quote(model));
  for (const [field, value] of Object.entries(rest)) {
    const flag = field.replaceAll("_", "-");
    if (typeof value === "boolean") words.push(value ? `--${flag}` : `--no-${flag}`);
    else words.push(field === "n" ? "-n" : `--${flag}`, quote(Array.isArray(value) ? value.join(field === "size" ? "x" : ",") : String(value)));
  }
  return words.join(" ");
}

export function python({name, hasMask = true, hasScribble, control = [], options}) {
  const {image, mask, scribble} = files(name);
  const {prompt, ...rest} = options;
  const literal = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : Array.isArray(value) ? `(${value.map((one) => JSON.stringify(one)).join(", ")})` : JSON.stringify(value));
  const given = Object.entries(rest).map(([field, value]) => `${field}=${literal(value)}`);
  const several = (one) => `(${control.map((each) => `${JSON.stringify(each[one])},`).join(" ")})`;
  if (control.length) given.unshift(`control=${several("picture")}`, `control_model=${several("model")}`);
  if (hasScribble) given.unshift(`scribble=${JSON.stringify(scribble)}`);
  const lines = [JSON.stringify(image), hasMask ? JSON.stringify(mask) : "None", JSON.stringify(prompt), ...given].map((line) => `    ${line},`);
  return `import sfumato\n\nresult = sfumato.edit(\n${lines.join("\n")}\n)\nresult.images[0].save("edited.png")\n`;
}

// The same edit as a command and as Python.

const quote = (text) => (/^[\w./,:=@+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);
const stem = (name) => name.replace(/\.\w+$/, "");

/** Names of the files that go with a picture: its mask and its scribble. */
export const files = (name) => ({image: name, mask: `${stem(name)}-mask.png`, scribble: `${stem(name)}-scribble.png`});

/** edit: {name, hasScribble, options}; options are the request's fields as JSON values. */
export function commandLine({name, hasScribble, options}) {
  const {image, mask, scribble} = files(name);
  const {prompt, ...rest} = options;
  const words = ["sfumato edit", quote(image), quote(prompt), "--mask", quote(mask)];
  if (hasScribble) words.push("--scribble", quote(scribble));
  for (const [field, value] of Object.entries(rest)) {
    const flag = field.replaceAll("_", "-");
    if (typeof value === "boolean") words.push(value ? `--${flag}` : `--no-${flag}`);
    else words.push(field === "n" ? "-n" : `--${flag}`, quote(Array.isArray(value) ? value.join(field === "size" ? "x" : ",") : String(value)));
  }
  return words.join(" ");
}

export function python({name, hasScribble, options}) {
  const {image, mask, scribble} = files(name);
  const {prompt, ...rest} = options;
  const literal = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : Array.isArray(value) ? `(${value.join(", ")})` : JSON.stringify(value));
  const given = Object.entries(rest).map(([field, value]) => `${field}=${literal(value)}`);
  if (hasScribble) given.unshift(`scribble=${JSON.stringify(scribble)}`);
  const lines = [JSON.stringify(image), JSON.stringify(mask), JSON.stringify(prompt), ...given].map((line) => `    ${line},`);
  return `import sfumato\n\nresult = sfumato.edit(\n${lines.join("\n")}\n)\nresult.images[0].save("edited.png")\n`;
}

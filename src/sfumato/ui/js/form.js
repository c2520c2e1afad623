// The advanced options, generated from the JSON schemas of the request and of the methods' own options.

import {$, make} from "./dom.js";

const ELSEWHERE = new Set(["image", "mask", "scribble", "task", "expand", "prompt", "n", "seed", "method", "model", "box", "mask_mode", "mask_feather"]);
const LEAD = ["negative_prompt", "preset", "steps", "guidance_scale", "start_fraction", "fill", "background", "window"];

/** The members of a union that are not null. */
const kinds = (field) => (field.anyOf ?? [field]).filter((kind) => kind.type !== "null");
const title = (name) => name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());

export class Advanced {
  #presets = new Map(); // chosen, by method
  #method; // whose fields are shown

  constructor(schema, info) {
    this.schema = schema;
    this.info = info;
    const names = Object.keys(schema.properties).filter((name) => !ELSEWHERE.has(name));
    const rank = (name) => (LEAD.includes(name) ? LEAD.indexOf(name) : LEAD.length + names.indexOf(name));
    names.sort((a, b) => rank(a) - rank(b));
    this.shared = new Map(names.map((name) => [name, this.#entry(name, schema.properties[name], name)]));
    this.own = new Map(info.methods.map((method) => [method.name, this.#ownEntries(method)]));
    this.groups = info.methods.filter(({options}) => Object.keys(options).length).map((method) => this.#group(method));
    $("advanced").replaceChildren(...[...this.shared.values()].map(({label}) => label), ...this.groups);
    this.show();
  }

  /** A method's own options, empty at first: a preset may have other defaults than their schemas. */
  #ownEntries({name: method, options}) {
    const open = Object.entries(options).map(([name, {default: _, ...field}]) => [name, field]);
    return new Map(open.map(([name, field]) => [name, this.#entry(name, field, `${method}-${name}`)]));
  }

  #group({name, title}) {
    const labels = [...this.own.get(name).values()].map(({label}) => label);
    const group = make("fieldset", {}, make("legend", {textContent: title}), ...labels);
    group.dataset.method = name;
    return group;
  }

  #entry(name, field, id) {
    const about = make("span", {className: "about", id: `about-${id}`, textContent: field.description ?? ""});
    const input = this.#input(name, field);
    input.id = `field-${id}`;
    input.setAttribute("aria-describedby", about.id);
    const label = make("label", {className: field.type === "boolean" ? "field switch" : "field"});
    label.append(make("span", {textContent: title(name)}), input, about);
    return {field, input, label};
  }

  #input(name, field) {
    if (field.type === "boolean") return make("input", {type: "checkbox", checked: field.default});
    if (name === "preset") return make("select");
    if (name === "control") return make("input", {type: "file", multiple: true, accept: "image/*"});
    const [kind] = kinds(field);
    const choices = kind.type === "boolean" ? ["true", "false"] : kind.enum;
    if (kinds(field).length === 1 && choices) {
      const open = field.anyOf ? [make("option", {value: "", textContent: "automatic"})] : [];
      const select = make("select", {}, ...open, ...choices.map((value) => make("option", {value, textContent: value})));
      select.value = field.default ?? "";
      return select;
    }
    if (["integer", "number"].includes(kind.type)) return this.#number(kind, field);
    const shape = kinds(field).find((one) => one.type === "array");
    const hint = shape ? (shape.minItems === 2 ? "width, height" : "x, y, width, height") : "";
    const free = kinds(field).find((one) => one.enum);
    const input = make("input", {type: "text", value: field.default ?? "", placeholder: free ? `${free.enum.join(" or ")}, or ${hint}` : hint});
    return input;
  }

  #number(kind, field) {
    const input = make("input", {type: "number", step: kind.type === "integer" ? 1 : "any", value: field.default ?? "", placeholder: "automatic"});
    if (kind.minimum !== undefined) input.min = kind.minimum;
    if (kind.maximum !== undefined) input.max = kind.maximum;
    return input;
  }

  /** Show the fields that the chosen method uses. Values of other methods' fields are kept, but not sent. */
  show() {
    const preset = this.shared.get("preset").input;
    if (this.#method) this.#presets.set(this.#method.name, preset.value);
    this.#method = this.info.methods.find(({name}) => name === ($("method").value || this.info.method));
    const {name: method, fields, presets} = this.#method;
    for (const [name, {label}] of this.shared) label.hidden = !fields.includes(name);
    for (const group of this.groups) group.hidden = group.dataset.method !== method;
    preset.replaceChildren(
      make("option", {value: "", textContent: "automatic"}),
      ...presets.map((value) => make("option", {value, textContent: value})),
    );
    preset.value = this.#presets.get(method) ?? "";
  }

  /** The shown fields, by name. */
  get #shown() {
    const shared = [...this.shared].filter(([, {label}]) => !label.hidden);
    return new Map([...shared, ...this.own.get(this.#method.name)]);
  }

  /** Input element of a shown field. */
  input(name) {
    return this.#shown.get(name)?.input;
  }

  /** The shown fields that differ from their defaults, as JSON values. */
  values() {
    const given = {};
    for (const [name, {field, input}] of this.#shown) {
      if (input.type === "file") continue; // sent as files, see controls
      const value = read(input, field);
      if (value !== undefined && JSON.stringify(value) !== JSON.stringify(field.default ?? null)) given[name] = value;
    }
    return given;
  }

  /** The chosen control pictures; none where the server has no control models. */
  get controls() {
    return [...(this.input("control")?.files ?? [])];
  }

  set controls(files) {
    const given = new DataTransfer();
    for (const file of files) given.items.add(file);
    const input = this.input("control");
    if (input) input.files = given.files;
  }

  /** Set the shown fields to these values, and all others to their defaults. */
  set(values) {
    const shown = this.#shown;
    this.#presets.clear();
    for (const entries of [this.shared, ...this.own.values()]) {
      for (const [name, entry] of entries) {
        const {field, input} = entry;
        const value = (shown.get(name) === entry ? values[name] : undefined) ?? field.default ?? "";
        if (input.type === "checkbox") input.checked = value;
        else input.value = Array.isArray(value) ? value.join(", ") : value;
      }
    }
  }
}

function read(input, field) {
  if (input.type === "checkbox") return input.checked;
  const text = input.value.trim();
  if (!text) return undefined;
  if (kinds(field)[0].type === "boolean") return text === "true";
  return input.type === "number" ? Number(text) : text; // sizes and boxes are parsed by the server
}

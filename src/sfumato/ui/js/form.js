// The advanced drawer, made from the request's own schema: a new field of the request is a new field here.

import {$, make} from "./dom.js";

const ELSEWHERE = new Set(["image", "mask", "scribble", "task", "expand", "prompt", "n", "seed", "method", "model", "box", "mask_mode", "mask_feather"]);
const LEAD = ["negative_prompt", "preset", "steps", "guidance_scale", "start_fraction", "fill", "background", "window"];

/** The members of a union that are not null. */
const kinds = (field) => (field.anyOf ?? [field]).filter((kind) => kind.type !== "null");
const title = (name) => name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());

export class Advanced {
  constructor(schema, info) {
    this.schema = schema;
    this.info = info;
    this.inputs = new Map();
    const names = Object.keys(schema.properties).filter((name) => !ELSEWHERE.has(name));
    const rank = (name) => (LEAD.includes(name) ? LEAD.indexOf(name) : LEAD.length + names.indexOf(name));
    names.sort((a, b) => rank(a) - rank(b));
    $("advanced").replaceChildren(...names.map((name) => this.#field(name, schema.properties[name])));
    this.presets();
  }

  #field(name, field) {
    const about = make("span", {className: "about", id: `about-${name}`, textContent: field.description ?? ""});
    const input = this.#input(name, field);
    input.id = `field-${name}`;
    input.setAttribute("aria-describedby", about.id);
    this.inputs.set(name, input);
    const label = make("label", {className: field.type === "boolean" ? "field switch" : "field"});
    label.append(make("span", {textContent: title(name)}), input, about);
    return label;
  }

  #input(name, field) {
    if (field.type === "boolean") return make("input", {type: "checkbox", checked: field.default});
    if (name === "preset") return make("select");
    const [kind] = kinds(field);
    if (kinds(field).length === 1 && kind.enum) {
      const open = field.anyOf ? [make("option", {value: "", textContent: "automatic"})] : [];
      const select = make("select", {}, ...open, ...kind.enum.map((value) => make("option", {value, textContent: value})));
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

  /** The chosen method's presets. */
  presets() {
    const select = this.inputs.get("preset");
    const method = this.info.methods.find((one) => one.name === $("method").value);
    const chosen = select.value;
    const names = method?.presets ?? [];
    select.replaceChildren(
      make("option", {value: "", textContent: "automatic"}),
      ...names.map((value) => make("option", {value, textContent: value})),
    );
    select.value = names.includes(chosen) ? chosen : "";
  }

  /** The fields that differ from their defaults, as JSON values. */
  values() {
    const given = {};
    for (const [name, input] of this.inputs) {
      const field = this.schema.properties[name];
      const value = read(input, field);
      if (value !== undefined && JSON.stringify(value) !== JSON.stringify(field.default ?? null)) given[name] = value;
    }
    return given;
  }

  set(values) {
    for (const [name, input] of this.inputs) {
      const value = values[name] ?? this.schema.properties[name].default ?? "";
      if (input.type === "checkbox") input.checked = value;
      else input.value = Array.isArray(value) ? value.join(", ") : value;
    }
  }
}

function read(input, field) {
  if (input.type === "checkbox") return input.checked;
  const text = input.value.trim();
  if (!text) return undefined;
  if (input.type === "number") return Number(text);
  const isList = kinds(field).some((kind) => kind.type === "array") && /^[-\d\s,x]+$/.test(text);
  return isList ? text.split(/[,x\s]+/).map(Number) : text;
}

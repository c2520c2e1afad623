// The API reference, generated from the server's OpenAPI description.

import * as api from "./api.js";
import {$, make} from "./dom.js";

const GROUPS = {openai: "As OpenAI's API", jobs: "Jobs", webui: "As the Stable Diffusion web UI", operation: "Operation"};

const code = (text) => make("code", {textContent: text});
const cell = (...children) => make("td", {}, ...children);

function kind(field) {
  if (field.$ref) return field.$ref.split("/").pop();
  if (field.anyOf) return field.anyOf.map(kind).join(" | ");
  if (field.const) return JSON.stringify(field.const);
  if (field.enum) return field.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (field.type === "array") return field.prefixItems ? `[${field.prefixItems.map(kind).join(", ")}]` : `${kind(field.items ?? {})}[]`;
  return field.format === "binary" ? "file" : (field.type ?? "any");
}

function table(head, rows) {
  const top = make("tr", {}, ...head.map((text) => make("th", {textContent: text})));
  return make("table", {}, make("thead", {}, top), make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row))));
}

function fields(schema, required = schema.required ?? []) {
  return table(
    ["Field", "Kind", "Default", ""],
    Object.entries(schema.properties ?? {}).map(([name, field]) => [
      cell(code(name)),
      cell(kind(field)),
      cell(required.includes(name) ? "required" : field.default === undefined ? "" : code(JSON.stringify(field.default))),
      cell(field.description ?? ""),
    ]),
  );
}

const resolved = (schema, schemas) => (schema.$ref ? schemas[schema.$ref.split("/").pop()] : schema);

function operation(method, path, {summary, description, parameters, requestBody}, schemas) {
  const title = make("summary", {}, make("code", {className: "method", textContent: method.toUpperCase()}), code(path), make("span", {className: "about", textContent: summary ?? ""}));
  const inside = make("div", {}, make("p", {textContent: description ?? ""}));
  if (parameters?.length) {
    const rows = parameters.map(({name, in: place, schema, description: about}) => [cell(code(name)), cell(place), cell(kind(schema)), cell(about ?? "")]);
    inside.append(table(["Parameter", "In", "Kind", ""], rows));
  }
  for (const [type, {schema}] of Object.entries(requestBody?.content ?? {})) {
    const body = resolved(schema, schemas);
    inside.append(make("p", {}, "Body: ", code(type)), fields(body));
    for (const own of (body.oneOf ?? []).map((one) => resolved(one, schemas)).filter((one) => Object.keys(one.properties).length > 1)) {
      inside.append(make("p", {textContent: own.description}), fields(own));
    }
  }
  return make("details", {}, title, inside);
}

const description = await api.schema();
const groups = Object.entries(GROUPS).flatMap(([tag, title]) => {
  const operations = Object.entries(description.paths).flatMap(([path, methods]) =>
    Object.entries(methods)
      .filter(([, one]) => one.tags?.includes(tag))
      .map(([method, one]) => operation(method, path, one, description.components.schemas)),
  );
  return [make("h2", {className: "group", textContent: title}), ...operations];
});
$("reference").replaceChildren(...groups);

// A readable page from /openapi.json, without anything from elsewhere.

const SAID = ["description", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern"];

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

const resolve = (api, schema) =>
  schema?.$ref ? resolve(api, api.components.schemas[schema.$ref.split("/").at(-1)]) : schema ?? {};

function kind(api, schema) {
  const name = schema.$ref?.split("/").at(-1);
  if (name) return name;
  if (schema.anyOf) return schema.anyOf.map((one) => kind(api, one)).join(" or ");
  if (schema.type === "array") return `list of ${kind(api, schema.items ?? {})}`;
  return schema.format ?? schema.enum?.join(" | ") ?? schema.const ?? schema.type ?? "anything";
}

const limits = (schema) => SAID.filter((name) => schema[name] !== undefined).map((name) => `${name} ${schema[name]}`);

function table(rows) {
  const made = element("table");
  for (const cells of rows) {
    const row = element("tr");
    row.append(element("th", cells[0]), ...cells.slice(1).map((cell) => element("td", cell)));
    made.append(row);
  }
  return made;
}

function fields(api, schema) {
  const resolved = resolve(api, schema);
  return table(Object.entries(resolved.properties ?? {}).map(([name, field]) => {
    const required = resolved.required?.includes(name) ? "required" : "";
    const fallback = field.default === undefined ? required : `default ${JSON.stringify(field.default)}`;
    return [name, kind(api, field), fallback, limits(field).join(", ")];
  }));
}

function operation(api, path, method, said) {
  const made = element("section");
  made.className = "operation";
  const title = element("h2");
  title.append(element("b", method.toUpperCase()), path);
  made.append(title, element("p", said.description ?? said.summary));
  if (said.parameters?.length) {
    made.append(element("h3", "Parameters"), table(said.parameters.map((one) =>
      [one.name, one.in, kind(api, one.schema), one.required ? "required" : `default ${one.schema.default ?? "none"}`])));
  }
  const body = said.requestBody?.content["application/json"].schema;
  if (body) made.append(element("h3", "Body"), element("p", resolve(api, body).description ?? ""), fields(api, body));
  const [status, success] = Object.entries(said.responses).find(([code]) => code.startsWith("2"));
  const answer = success.content?.["application/json"]?.schema;
  made.append(element("h3", `Answer ${status}`));
  if (answer) made.append(element("p", resolve(api, answer).description ?? ""), fields(api, answer));
  const others = Object.keys(said.responses).filter((code) => !code.startsWith("2"));
  if (others.length) made.append(element("p", `Problems: ${others.sort().join(", ")}`));
  return made;
}

const api = await (await fetch("/openapi.json")).json();
document.getElementById("operations").append(
  ...Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, said]) => operation(api, path, method, said))),
);

"use strict";
// The OpenAPI description, to be read without a network.

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const json = value => node("pre", { tabindex: "0" }, JSON.stringify(value, null, 2));

function command(path, method, operation, needsKey) {
  const lines = [`curl ${location.origin}${path}`];
  if (needsKey) lines.push('-H "Authorization: Bearer $KEY"');
  if (method === "post") lines.push("-X POST");
  if (operation.requestBody) lines.push('-H "Content-Type: application/json"', "-d @rows.json");
  return node("pre", { tabindex: "0" }, lines.join(" \\\n  "));
}

function drawOperation(path, method, operation) {
  const parts = [node("h3", {}, node("code", {}, `${method.toUpperCase()} ${path}`)), node("p", {}, operation.summary || "")];
  parts.push(command(path, method, operation, Boolean(operation.security)));
  parts.push(node("p", { class: "soft" }, `Answers: ${Object.keys(operation.responses).join(", ")}`));
  return node("section", { class: "operation card" }, ...parts);
}

async function start() {
  const key = sessionStorage.getItem("key");
  const answer = await fetch("/openapi.json", { headers: key ? { Authorization: `Bearer ${key}` } : {} }).catch(() => null);
  const status = document.getElementById("status");
  if (!answer || !answer.ok) {
    status.textContent = answer && answer.status === 401 ? "An API key is needed: enter it on the page first, then come back in the same tab." : "The server does not answer.";
    return;
  }
  const described = await answer.json();
  status.textContent = described.info.description;
  const operations = Object.entries(described.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]) => drawOperation(path, method, operation)));
  document.getElementById("operations").replaceChildren(node("h2", {}, "Paths"), ...operations);
  const schemas = Object.entries(described.components.schemas).map(([name, schema]) => node("details", {}, node("summary", {}, name), json(schema)));
  document.getElementById("schemas").replaceChildren(node("h2", {}, "What is sent and answered"), ...schemas);
}

start();

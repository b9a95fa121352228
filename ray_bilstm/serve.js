// Asks the service for the entities of each line, and shows them.
"use strict";
const form = document.querySelector("form");
const area = document.getElementById("text");
const button = document.querySelector("button");
const told = document.querySelector("output");
const fault = document.getElementById("error");
const list = document.getElementById("texts");
const types = [...document.querySelectorAll("#legend mark")].map((mark) => mark.textContent);

function marked(text, entities) {
  const line = document.createElement("span");
  const characters = Array.from(text); // offsets count code points
  const between = (start, end) => characters.slice(start, end).join("");
  let done = 0;
  for (const { type, start, end, score } of entities) {
    const mark = document.createElement("mark");
    mark.className = `t${types.indexOf(type)}${score < 0.9 ? " doubt" : ""}`;
    mark.title = `${type} ${score.toFixed(4)}`;
    mark.dataset.told = `${type} ${(Math.floor(score * 1000) / 10).toFixed(1)}%`;
    mark.textContent = between(start, end);
    line.append(between(done, start), mark);
    done = end;
  }
  line.append(between(done));
  const item = document.createElement("li");
  item.append(line);
  return item;
}

async function ask(texts) {
  const response = await fetch("tag", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ text: texts }),
  }).catch(() => { throw new Error("the service does not answer: is it still running?"); });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok || !answer.results) throw new Error(answer.error || `the service answered ${response.status}`);
  return answer.results;
}

async function tag() {
  if (button.disabled) return;
  const texts = area.value.split(/\r?\n/).filter((text) => text.trim());
  button.disabled = true;
  fault.hidden = true;
  try {
    const begin = performance.now();
    const results = texts.length ? await ask(texts) : [];
    list.replaceChildren(...results.map(({ entities }, i) => marked(texts[i], entities)));
    const found = results.reduce((sum, { entities }) => sum + entities.length, 0);
    const milliseconds = Math.round(performance.now() - begin);
    told.textContent = `${found} entities in ${texts.length} lines, ${milliseconds} ms`;
  } catch (error) {
    list.replaceChildren();
    told.textContent = "";
    fault.textContent = error.message;
    fault.hidden = false;
  }
  button.disabled = false;
}

form.addEventListener("submit", (event) => { event.preventDefault(); tag(); });
area.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); tag(); }
});

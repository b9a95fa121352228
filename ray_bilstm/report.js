// The filters of the wrong sentences: one is shown where a mistake in it has both the kind and the type.
"use strict";
const filters = document.getElementById("filters");
const [kind, type] = filters.querySelectorAll("select");
const sentences = document.querySelectorAll(".errors > li");

function fits(mistake) {
  const types = mistake.dataset.types.split(" ");
  return (!kind.value || mistake.dataset.kind === kind.value) && (!type.value || types.includes(type.value));
}

function show() {
  let shown = 0;
  for (const sentence of sentences) {
    sentence.hidden = ![...sentence.querySelectorAll("[data-kind]")].some(fits);
    shown += !sentence.hidden;
  }
  filters.querySelector("output").textContent = `${shown} of ${sentences.length} sentences shown`;
}

filters.hidden = false;
filters.addEventListener("change", show);
show();

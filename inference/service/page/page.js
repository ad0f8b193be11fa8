// The page: takes a text, asks the service, and has the answer drawn. Sends nothing to anywhere else.

import { watchMarks } from "./tip.js";
import { drawArticle, drawLegend, drawTopics, showEvidence, tonesOf } from "./view.js";
import { speaker } from "./words.js";

const at = (id) => document.getElementById(id);

const state = {
  language: "en",
  model: null, // what /v1/model says
  answer: null, // the text that was tagged and what was said of it
  chosen: null, // label of the chosen topic
  status: null, // what the status line says, as [key, values]
  problem: null, // what went wrong, as [key, values, the service's own message]
};

// Lists of numbers only; a line break is never part of a string in JSON.
const NUMBERS = /\[\n[\d,\s]+\]/g;
const onOneLine = (list) => list.replace(/\s+/g, " ").replace("[ ", "[").replace(" ]", "]");

// The field in which to mend what went wrong; elsewhere the focus stays, to try again.
const TO_MEND = { empty: "text", 401: "token", 413: "text", 422: "text" };

let spoken = speaker(state.language);
let request = new AbortController();

class Problem extends Error {
  constructor(key, values = {}, message = "") {
    super(key);
    this.words = [key, values, message];
  }
}

async function call(path, signal, body = null) {
  const headers = new Headers();
  if (at("token").value) {
    headers.set("Authorization", `Bearer ${at("token").value}`);
  }
  const options = { headers, signal };
  if (body) {
    headers.set("Content-Type", "application/json");
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Problem("unreachable");
  }
  const content = await response.json().catch(() => null);
  if (response.ok && content) {
    return content;
  }
  if (response.status === 401) {
    at("token-field").hidden = false;
  }
  const key = spoken.has(response.status) ? response.status : "failed";
  throw new Problem(key, { status: response.status }, content?.error?.message ?? "");
}

async function tag(text) {
  request.abort(); // only the last one asked for is waited for
  request = new AbortController();
  const { signal } = request;
  Object.assign(state, { status: ["working"], problem: null });
  drawMessages();
  try {
    if (!text.trim()) {
      throw new Problem("empty");
    }
    state.model ??= await call("v1/model", signal);
    const { articles } = await call("v1/tag", signal, { articles: [{ text }] });
    const [article] = articles;
    const { topics, entities } = article;
    const status = ["done", { topics: topics.length, entities: entities.length }];
    Object.assign(state, { answer: { text, article }, chosen: null, status });
    draw();
    at("result-title").focus({ preventScroll: true });
    at("result-title").scrollIntoView();
  } catch (error) {
    if (signal.aborted) {
      return;
    }
    // What is no Problem is an answer that this page cannot read.
    Object.assign(state, { status: null, problem: error.words ?? ["failed", { status: 200 }, error.message] });
    draw();
    at(TO_MEND[state.problem[0]])?.focus();
  }
}

function choose(label) {
  state.chosen = state.chosen === label ? null : label;
  const shown = showEvidence(at("topics"), at("article"), state.answer.article, state.chosen);
  state.status = [state.chosen === null ? "released" : "chosen", { label, n: shown.length }];
  drawMessages();
}

function draw() {
  document.documentElement.lang = state.language;
  document.documentElement.dir = state.language === "ar" ? "rtl" : "ltr";
  for (const element of document.querySelectorAll("[data-words]")) {
    element.textContent = spoken.say(element.dataset.words);
  }
  at("language").textContent = spoken.say("other");
  at("language").lang = state.language === "ar" ? "en" : "ar";
  at("text").placeholder = spoken.say("placeholder");
  at("model").textContent = state.model ? spoken.say("model", { name: state.model.model }) : "";
  drawCount();
  drawMessages();
  hideTip();
  at("result").hidden = !state.answer;
  if (state.answer) {
    drawAnswer(state.answer);
  }
}

function drawAnswer({ text, article }) {
  const tones = tonesOf(state.model.entity_labels, article.entities);
  drawTopics(at("topics"), at("other-topics"), article, spoken, choose);
  drawLegend(at("legend"), article.entities, tones, spoken);
  drawArticle(at("article"), text, article, tones);
  showEvidence(at("topics"), at("article"), article, state.chosen);
  const { characters: all, characters_read: read } = article;
  at("partly").textContent = read < all ? spoken.say("partly", { read, all }) : "";
  at("json").textContent = JSON.stringify(article, null, 2).replace(NUMBERS, onOneLine);
}

function drawCount() {
  const n = Array.from(at("text").value).length;
  const limit = state.model?.limits.max_characters;
  at("count").textContent = limit ? spoken.say("countOf", { n, limit }) : spoken.say("count", { n });
  at("count").classList.toggle("over", n > limit);
}

function drawMessages() {
  const [key, values, message] = state.problem ?? [];
  at("problem").textContent = key ? spoken.say(key, values) : "";
  if (message) {
    const own = document.createElement("bdi");
    own.lang = "en";
    own.textContent = message;
    at("problem").append(" ", own);
  }
  at("status").textContent = state.status ? spoken.say(...state.status) : "";
}

function describe(mark) {
  const { label, score } = state.answer.article.entities[mark.dataset.entity];
  const name = document.createElement("bdi");
  name.textContent = label;
  return [name, ` ${spoken.percent(score)}`];
}

function speak(language) {
  state.language = language;
  spoken = speaker(language);
  draw();
}

async function offerSamples() {
  const samples = await (await fetch("samples.json")).json();
  at("samples").replaceChildren(
    ...samples.map(({ text }) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text.split("\n", 1)[0];
      button.addEventListener("click", () => {
        at("text").value = text;
        drawCount();
        at("form").requestSubmit();
      });
      item.append(button);
      return item;
    }),
  );
}

const hideTip = watchMarks(at("article"), at("tip"), describe);
at("text").addEventListener("input", drawCount);
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  tag(at("text").value);
});
at("language").addEventListener("click", () => {
  const language = state.language === "ar" ? "en" : "ar";
  history.replaceState(null, "", `#${language}`); // so that a reload or a link keeps it
  speak(language);
});

const wanted = [location.hash.slice(1), ...navigator.languages.map((language) => language.split("-")[0])];
speak(wanted.find((language) => language === "ar" || language === "en") ?? "en");
await offerSamples();

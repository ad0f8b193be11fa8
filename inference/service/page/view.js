// Draws what the API says of an article. Data becomes text nodes only, never markup. Knows nothing of requests.

const TONES = 8; // as many as style.css has

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

/**
 * Draws the topics: those reported as buttons, then those that are uncertain, and the rest apart.
 * @param {(label: string) => void} onChoose Is told which button was pressed.
 */
export function drawTopics(list, others, article, speaker, onChoose) {
  const uncertain = new Set(article.uncertain);
  const reported = new Set(article.topics.map((topic) => topic.label));
  const left = Object.entries(article.topic_scores)
    .filter(([label]) => !reported.has(label))
    .sort(([, a], [, b]) => b - a);

  const row = (tag, label, score, evidence) => {
    const bar = element("span", "bar", element("span", ""));
    bar.firstChild.style.inlineSize = `${100 * score}%`;
    const topic = element(tag, "topic", element("bdi", "name", label), bar);
    topic.append(element("span", "score", speaker.percent(score)), element("span", "notes", ...evidence));
    if (uncertain.has(label)) {
      topic.classList.add("uncertain");
      topic.lastChild.prepend(element("span", "badge", speaker.say("uncertain")), " ");
    }
    return element("li", "", topic);
  };

  list.replaceChildren(
    ...article.topics.map(({ label, score, segments }) => {
      const made = row("button", label, score, [speaker.say("evidence", { segments })]);
      const button = made.firstChild;
      button.type = "button";
      button.dataset.label = label;
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => onChoose(label));
      return made;
    }),
    ...left.filter(([label]) => uncertain.has(label)).map(([label, score]) => row("div", label, score, [])),
  );
  if (!article.topics.length) {
    list.prepend(element("li", "", speaker.say("noTopics")));
  }
  const rest = left.filter(([label]) => !uncertain.has(label));
  others.replaceChildren(...rest.map(([label, score]) => row("div", label, score, [])));
  others.parentElement.hidden = !rest.length;
}

/** Marks the segments that show a topic, or any topic if none is chosen, and gives them. */
export function showEvidence(list, box, article, chosen) {
  for (const button of list.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.label === chosen));
  }
  const topics = article.topics.filter(({ label }) => chosen === null || label === chosen);
  const indices = new Set(topics.flatMap(({ segments }) => segments));
  const segments = [...box.querySelectorAll(".segment")];
  segments.forEach((segment, index) => segment.classList.toggle("evidence", indices.has(index)));
  return segments.filter((_, index) => indices.has(index));
}

/** Gives each label its tone, by its place among the model's labels; labels the model does not list come last. */
export function tonesOf(labels, entities) {
  const all = [...new Set([...labels, ...entities.map(({ label }) => label)])];
  const style = (index) => `tone-${index % TONES}${Math.floor(index / TONES) % 2 ? " dashed" : ""}`;
  return new Map(all.map((label, index) => [label, style(index)]));
}

/** Draws the labels that the article has, each with how often. */
export function drawLegend(list, entities, tones, speaker) {
  const counts = new Map();
  for (const { label } of entities) {
    counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  const labels = [...tones.keys()].filter((label) => counts.has(label));
  const shown = (label) => element("mark", tones.get(label), element("bdi", "", label));
  list.replaceChildren(...labels.map((label) => element("li", "", shown(label), ` ${counts.get(label)}`)));
  if (!labels.length) {
    list.append(element("li", "", speaker.say("noEntities")));
  }
}

/** Draws the text with its segments and, in them, its entities. */
export function drawArticle(box, text, article, tones) {
  const points = Array.from(text); // offsets count code points, and strings here count UTF-16 units
  const cut = (start, end) => points.slice(start, end).join("");
  box.replaceChildren();
  let next = 0; // entities come in order, each within a segment
  let done = 0;
  article.segments.forEach((segment, index) => {
    const drawn = element("span", "segment");
    drawn.dataset.index = index;
    let at = segment.start;
    for (; next < article.entities.length && article.entities[next].start < segment.end; next++) {
      const entity = article.entities[next];
      const mark = element("mark", tones.get(entity.label), cut(entity.start, entity.end));
      mark.dataset.entity = next;
      mark.tabIndex = next ? -1 : 0;
      drawn.append(cut(at, entity.start), mark);
      at = entity.end;
    }
    drawn.append(cut(at, segment.end));
    box.append(cut(done, segment.start), drawn);
    done = segment.end;
  });
  box.append(cut(done));
}

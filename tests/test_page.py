"""The page at `/`, in a real Chromium, against a real `khabar serve`; made-up answers only for what that never says."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
pytest.importorskip("fastapi", reason="needs khabar[serve]")
expect = sync_api.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: no chromium, chromium-browser or google-chrome"),
]

# The emoji take two UTF-16 units each, the flag four, and come before every entity.
TEXT = (
    "😀🇮🇶 عاجل: قتل جنديان بانفجار عبوة ناسفة شمالي بعقوبة\n\n👍🏽 وقال المتحدث باسم الحكومة إن الوزير وصل إلى بغداد."
)
PHONE = {"width": 390, "height": 800}
READABLE = 4.5  # Source: WCAG 2.2, success criterion 1.4.3


@pytest.fixture(scope="module")
def service():
    """The address of a service of the embedded model."""
    command = [sys.executable, "-m", "khabar", "serve", "--port", "0", "--device", "cpu", "--max-characters", "1000"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KHABAR_")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            seen = []
            for line in process.stderr:
                seen.append(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            else:
                pytest.fail(f"no service: {''.join(seen)}")
            yield found[0]
        finally:
            process.kill()  # how it stops is tested elsewhere


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(service, browser):
    """Opens the page in a fresh profile; at the end, nothing may have gone wrong or to another address."""

    @contextmanager
    def visit(*, fails=False, **options):
        problems, asked = [], []
        context = browser.new_context(**({"locale": "en-GB"} | options))
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(service)
        expect(page.locator("#samples button")).to_have_count(4)
        yield page
        context.close()
        if fails:  # the browser itself reports answers that are not 2xx
            problems = [problem for problem in problems if not problem.startswith("Failed to load resource")]
        assert not problems
        assert all(url.startswith(f"{service}/") for url in asked)

    return visit


@pytest.fixture
def api(service):
    """Tags a text without the page."""

    def tag(text):
        body = json.dumps({"articles": [{"text": text}]}).encode()
        request = urllib.request.Request(f"{service}/v1/tag", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["articles"][0]

    return tag


def _tag(page, text):
    page.locator("#text").fill(text)
    page.locator("#tag").click()
    expect(page.locator("#result-title")).to_be_focused()


def _answer_with(page, **article):
    """Have the service give a made-up article, all of it one segment if it has no others."""
    text = article.pop("text")
    whole = {"start": 0, "end": len(text), "topics": []}
    made = {"id": None, "topics": [], "uncertain": [], "topic_scores": {}, "segments": [whole], "entities": []}
    made |= {"characters": len(text), "characters_read": len(text), "model": "made up"} | article
    page.route("**/v1/tag", lambda route: route.fulfill(json={"articles": [made]}))
    _tag(page, text)


def _entities(text, labels):
    """Make each word of a text an entity, of one label after the other."""
    words = list(re.finditer(r"\S+", text))
    return [
        {"label": label, "start": word.start(), "end": word.end(), "text": word[0], "score": 0.5}
        for word, label in zip(words, labels, strict=True)
    ]


def _has_overflow(page):
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


def _contrast(page, selector):
    """The least contrast of text to its background among elements, which set both themselves or inherit the panel's."""
    script = """elements => elements.map(element => {
        const own = getComputedStyle(element), panel = getComputedStyle(element.closest('#result > div'));
        const clear = own.backgroundColor === 'rgba(0, 0, 0, 0)';
        return [own.color, clear ? panel.backgroundColor : own.backgroundColor];
    })"""
    ratios = []
    for colours in page.locator(selector).evaluate_all(script):
        light, dark = sorted(map(_luminance, colours), reverse=True)
        ratios.append((light + 0.05) / (dark + 0.05))
    return min(ratios)


def _luminance(colour):
    """Source: WCAG 2.2, relative luminance."""
    parts = [int(part) / 255 for part in re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour).groups()]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_highlights_are_the_offsets_of_the_api(visit, api):
    article = api(TEXT)
    entities, segments = article["entities"], article["segments"]
    assert len(entities) >= 3
    assert article["topics"]
    with visit() as page:
        _tag(page, TEXT)
        marks = page.locator("#article mark").all_text_contents()
        assert marks == [TEXT[entity["start"] : entity["end"]] for entity in entities]
        assert marks == [entity["text"] for entity in entities]
        shown = page.locator("#article .segment").all_text_contents()
        assert shown == [TEXT[segment["start"] : segment["end"]] for segment in segments]
        evidence = [TEXT[segment["start"] : segment["end"]] for segment in segments if segment["topics"]]
        assert page.locator("#article .evidence").all_text_contents() == evidence
        assert page.locator("#article").text_content() == TEXT
        first, second = (page.locator("#article mark").nth(index).bounding_box() for index in (0, 1))
        assert first["y"] == second["y"]
        assert first["x"] > second["x"] + second["width"]  # right to left
        assert json.loads(page.locator("#json").text_content()) == article
        labels = page.locator("#legend mark").all_text_contents()
        assert sorted(labels) == sorted({entity["label"] for entity in entities})
        # A label's colour in the legend is that in the text.
        style = "elements => elements.map(element => [element.textContent, element.className])"
        legend = dict(page.locator("#legend mark").evaluate_all(style))
        drawn = page.locator("#article mark").evaluate_all("elements => elements.map(element => element.className)")
        assert drawn == [legend[entity["label"]] for entity in entities]


def test_topics_have_probabilities_and_show_their_evidence(visit, api, tmp_path):
    with visit() as page:
        page.locator("#samples button").first.click()
        expect(page.locator("#result-title")).to_be_focused()
        text = page.locator("#text").input_value()
        article = api(text)
        assert len(article["topics"]) >= 2
        rows = page.locator("#topics .topic")
        assert rows.locator(".name").all_text_contents() == [topic["label"] for topic in article["topics"]]
        shown = [float(score.rstrip("%")) for score in rows.locator(".score").all_text_contents()]
        assert shown == pytest.approx([100 * topic["score"] for topic in article["topics"]], abs=0.051)
        page.locator("#others summary").click()
        others = page.locator("#other-topics .name").all_text_contents()
        assert sorted(rows.locator(".name").all_text_contents() + others) == sorted(article["topic_scores"])
        pictures = set()
        for topic in article["topics"]:
            button = page.locator("#topics button", has_text=topic["label"])
            button.click()
            expect(button).to_have_attribute("aria-pressed", "true")
            expect(page.locator('#topics [aria-pressed="true"]')).to_have_count(1)
            spans = [article["segments"][index] for index in topic["segments"]]
            evidence = [text[span["start"] : span["end"]] for span in spans]
            assert page.locator("#article .evidence").all_text_contents() == evidence
            expect(page.locator("#status")).to_contain_text(topic["label"])
            page.mouse.move(0, 0)
            pictures.add(page.locator("#article").screenshot(path=tmp_path / f"{topic['label']}.png"))
        assert len(pictures) == len({tuple(topic["segments"]) for topic in article["topics"]})


def test_the_keyboard_alone_does_it_all(visit, api):
    article = api(TEXT)
    entities = article["entities"]
    with visit() as page:
        press = page.keyboard.press
        press("Tab")
        press("Enter")
        assert page.locator("html").get_attribute("dir") == "rtl"
        press("Enter")
        press("Tab")
        expect(page.locator("#text")).to_be_focused()
        page.keyboard.insert_text(TEXT)
        press("Tab")
        press("Enter")
        expect(page.locator("#result-title")).to_be_focused()
        press("Tab")
        press("Space")
        first = page.locator("#topics button").first
        expect(first).to_be_focused()
        expect(first).to_have_attribute("aria-pressed", "true")
        for _ in article["topics"][1:]:
            press("Tab")
        press("Tab")
        expect(page.locator("#others summary")).to_be_focused()
        press("Tab")
        marks, tip = page.locator("#article mark"), page.locator("#tip")
        expect(marks.first).to_be_focused()
        press("ArrowLeft")
        expect(marks.nth(1)).to_be_focused()
        expect(tip).to_contain_text(entities[1]["label"])
        expect(tip).to_contain_text("%")
        assert marks.nth(1).get_attribute("aria-describedby") == "tip"
        press("End")
        press("ArrowLeft")
        expect(marks.last).to_be_focused()
        press("Escape")
        expect(tip).to_be_hidden()
        press("Home")
        expect(marks.first).to_be_focused()
        press("Tab")
        expect(page.locator("#json")).to_be_focused()
        press("Shift+Tab")
        expect(marks.first).to_be_focused()


def test_a_pointer_gets_label_and_probability(visit, api):
    entities = api(TEXT)["entities"]
    with visit() as page:
        _tag(page, TEXT)
        tip = page.locator("#tip")
        for mark, entity in zip(page.locator("#article mark").all(), entities, strict=True):
            mark.hover()
            expect(tip).to_contain_text(entity["label"])
            assert float(tip.text_content().split()[-1].rstrip("%")) == pytest.approx(100 * entity["score"], abs=0.051)
        page.locator("h1").hover()
        expect(tip).to_be_hidden()


def test_both_languages_and_the_labels_stay_as_they_are(visit):
    with visit(locale="ar-IQ") as page:
        html = page.locator("html")
        expect(html).to_have_attribute("dir", "rtl")
        expect(html).to_have_attribute("lang", "ar")
        _tag(page, TEXT)
        arabic = page.locator("main").inner_text()
        assert "المواضيع" in arabic
        labels = page.locator("#topics .name, #legend mark").all_text_contents()
        page.locator("#language").click()
        expect(html).to_have_attribute("dir", "ltr")
        expect(html).to_have_attribute("lang", "en")
        expect(page.locator("#status")).to_contain_text("Topics reported")
        assert page.locator("#topics .name, #legend mark").all_text_contents() == labels
        assert page.locator("#article").text_content() == TEXT
        english = page.locator("#form, #topics-part h3, .hint, #status").all_inner_texts()
        samples = page.locator("#samples").inner_text()
        assert not re.search("[\u0600-\u06ff]", "".join(english).replace(samples, ""))
        page.reload()
        expect(html).to_have_attribute("lang", "en")
    with visit(locale="fr-FR") as page:
        expect(page.locator("html")).to_have_attribute("lang", "en")


@pytest.mark.parametrize("language", ["en", "ar"])
def test_a_phone_s_width_is_enough(visit, language):
    with visit(viewport=PHONE, locale=language) as page:
        assert not _has_overflow(page)
        text = f"{TEXT}\n{'م' * 300} {'x' * 300}"
        _tag(page, text)
        assert not _has_overflow(page)
        for mark in page.locator("#article mark").all():
            mark.focus()
            assert not _has_overflow(page)
        labels = ["L" * 60, "تسمية", "other"]
        _answer_with(
            page,
            text="واحد اثنان ثلاثة",
            entities=_entities("واحد اثنان ثلاثة", labels),
            topics=[{"label": "T" * 60, "score": 0.75, "segments": [0]}],
            topic_scores={"T" * 60: 0.75},
        )
        page.locator("#article mark").first.focus()
        expect(page.locator("#tip")).to_be_visible()
        assert not _has_overflow(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_every_colour(visit, scheme):
    labels = [f"label {number}" for number in range(10)]
    text = " ".join(["كلمة"] * len(labels))
    with visit(color_scheme=scheme) as page:
        _answer_with(
            page,
            text=text,
            entities=_entities(text, labels),
            topics=[{"label": "topic", "score": 0.9, "segments": [0]}],
            topic_scores={"topic": 0.9},
        )
        style = "({backgroundColor, borderBottom}) => backgroundColor + borderBottom"
        styles = page.locator("#article mark").evaluate_all(f"marks => marks.map(getComputedStyle).map({style})")
        assert len(set(styles)) == len(labels)  # more labels than colours: told apart by their lines
        page.locator("#topics button").click()
        assert _contrast(page, "#article mark, #legend mark, #article .evidence, #topics button, .hint") >= READABLE
        page_is_dark = _luminance(page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")) < 0.2
        assert page_is_dark == (scheme == "dark")


def test_uncertain_topics_are_shown_as_such(visit):
    scores = {"sure": 0.98, "doubtful": 0.55, "perhaps": 0.45, "no": 0.01}
    with visit() as page:
        _answer_with(
            page,
            text="خبر قصير",
            topics=[{"label": label, "score": scores[label], "segments": [0]} for label in ("sure", "doubtful")],
            uncertain=["doubtful", "perhaps"],
            topic_scores=scores,
            characters_read=3,
        )
        rows = page.locator("#topics .topic")
        assert rows.locator(".name").all_text_contents() == ["sure", "doubtful", "perhaps"]
        badges = [row.locator(".badge").all_text_contents() for row in rows.all()]
        assert badges == [[], ["uncertain"], ["uncertain"]]
        expect(page.locator("#topics button")).to_have_count(2)  # what is not reported has no evidence to show
        assert page.locator("#other-topics .name").all_text_contents() == ["no"]
        expect(page.locator("#partly")).to_contain_text("3 of 8")


def test_data_is_never_markup(visit):
    label = "<img src=x onerror=document.title='gone'>"
    text = "<script>document.title='gone'</script> <b>خبر</b>"
    with visit() as page:
        _answer_with(
            page,
            text=text,
            entities=_entities(text, [label, "other"]),
            topics=[{"label": label, "score": 0.9, "segments": [0]}],
            topic_scores={label: 0.9},
            model=label,
        )
        page.locator("#topics button").click()
        page.locator("#article mark").first.hover()
        expect(page.locator("#tip")).to_contain_text(label)
        expect(page.locator("#status")).to_contain_text(label)
        assert page.locator("#article").text_content() == text
        expect(page.locator("img, b, main script")).to_have_count(0)
        expect(page).to_have_title("khabar")


def test_what_goes_wrong_is_said_in_words(visit):
    with visit(fails=True) as page:
        problem, text = page.locator("#problem"), page.locator("#text")
        page.locator("#tag").click()
        expect(problem).to_contain_text("no text yet")
        expect(text).to_be_focused()
        text.fill("م" * 1_001)
        page.locator("#tag").click()
        expect(problem).to_contain_text("cannot take this text")
        expect(problem).to_contain_text("text has 1,001 characters; allowed: at most 1,000")
        page.locator("#language").click()
        expect(problem).to_contain_text("لا تقبل الخدمة هذا النص")
        page.locator("#language").click()
        page.route("**/v1/tag", lambda route: route.fulfill(status=503, json={"error": {"message": "full"}}))
        text.fill(TEXT)
        page.locator("#tag").click()
        expect(problem).to_contain_text("busy")
        page.route("**/v1/tag", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
        page.locator("#tag").click()
        expect(problem).to_contain_text("status 502")
        page.route("**/v1/tag", lambda route: route.abort())
        page.locator("#tag").click()
        expect(problem).to_contain_text("cannot be reached")
        page.unroute("**/v1/tag")
        _tag(page, TEXT)
        expect(problem).to_be_empty()


def test_a_token_is_asked_for_when_the_service_does(visit):
    secret = "correct-horse-battery"

    def guarded(route):
        if route.request.headers.get("authorization") == f"Bearer {secret}":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": {"message": "the request has no known token"}})

    with visit(fails=True) as page:
        page.route("**/v1/**", guarded)
        token = page.locator("#token")
        expect(token).to_be_hidden()
        page.locator("#text").fill(TEXT)
        page.locator("#tag").click()
        expect(token).to_be_focused()
        expect(page.locator("#problem")).to_contain_text("asks for a token")
        page.keyboard.insert_text("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#problem")).to_contain_text("no known token")
        token.fill(secret)
        page.keyboard.press("Enter")
        expect(page.locator("#result-title")).to_be_focused()


def test_a_late_answer_does_not_replace_a_newer_one(visit):
    with visit() as page:
        held = []

        def hold(route):
            held.append(route)

        page.route("**/v1/tag", hold, times=1)
        page.locator("#text").fill("خبر قديم")
        page.locator("#tag").click()
        expect(page.locator("#status")).to_contain_text("Tagging")
        page.wait_for_timeout(100)
        assert held
        _tag(page, TEXT)
        held[0].continue_()
        page.wait_for_timeout(200)
        assert page.locator("#article").text_content() == TEXT


def test_the_samples_are_the_project_s_examples(service, examples):
    lines = (examples / "articles.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {article["text"] for article in map(json.loads, lines)}
    with urllib.request.urlopen(f"{service}/samples.json", timeout=60) as answer:
        samples = json.load(answer)
    assert {sample["text"] for sample in samples} <= texts

"""The service: one real Ray Serve in a fresh process, asked over HTTP. The last test ends it."""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import on_ray
import psutil
import pytest
from browser import Browser

from ray_bilstm import Tagger, __version__, checkpoint, cli
from ray_bilstm.config import Config
from ray_bilstm.sample import generate

pytestmark = on_ray.WARNINGS
for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package, reason="pip install '.[serve]'")
web = pytest.importorskip("ray_bilstm.web")

ROOT = Path(__file__).parents[1]
JSON = {"Content-Type": "application/json"}
TEXTS = ["".join(characters) for characters, _ in generate(seed=3, train=60, dev=0, test=0)["train"]]


class Server:
    """The command, running."""

    def __init__(self, model: Path, folder: Path, *flags: str) -> None:
        self.model = model
        self.lines, self.errors = folder / "stdout", folder / "stderr"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
        environment.pop("RAY_ADDRESS", None)
        with self.lines.open("w") as out, self.errors.open("w") as err:
            words = [sys.executable, "-m", "ray_bilstm", "serve", str(model), "--port", "0", *flags]
            self.process = subprocess.Popen(words, stdout=out, stderr=err, cwd=folder, env=environment)
        first = self.wait_for_line(1)
        self.url = first.split()[0]
        self.port = int(self.url.rpartition(":")[2])

    def wait_for_line(self, number: int) -> str:
        until = time.monotonic() + 240
        while self.lines.read_text().count("\n") < number:
            assert self.process.poll() is None and time.monotonic() < until, self.errors.read_text()
            time.sleep(0.05)
        return self.lines.read_text().splitlines()[number - 1]

    def ask(self, method, path, body=None, headers=JSON, **options):
        """Status, decoded body and headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            data = body.encode() if isinstance(body, str) else body
            connection.request(method, path, data, headers if body is not None else {}, **options)
            answer = connection.getresponse()
            content = answer.read().decode()
            is_json = answer.getheader("content-type") == "application/json"
            return answer.status, json.loads(content) if is_json else content, dict(answer.getheaders())

    def tag(self, text, **more):
        status, answer, _ = self.ask("POST", "/tag", json.dumps({"text": text, **more}))
        assert status == 200, answer
        return [result["entities"] for result in answer["results"]]


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(trained, folder / "best")
    server = Server(folder / "best", folder)
    yield server
    server.process.terminate()
    server.process.wait(60)


def as_dicts(entities):
    return [entity._asdict() for entity in entities]


def same(found, expected):
    scores = [entity.pop("score") for entity in found]
    assert found == [{key: value for key, value in entity.items() if key != "score"} for entity in expected]
    assert scores == pytest.approx([entity["score"] for entity in expected], abs=1e-6)
    return True


def test_texts_get_what_the_tagger_gives(server, trained):
    tagger = Tagger.load(trained)
    (found,) = server.tag(TEXTS[0])
    assert same(found, as_dicts(tagger.predict(TEXTS[0])))
    expected = [as_dicts(entities) for entities in tagger.predict(TEXTS)]
    assert sum(map(len, expected)) > 60
    assert all(map(same, server.tag(TEXTS), expected))
    plain = [[{k: v for k, v in entity.items() if k != "score"} for entity in one] for one in expected]
    assert server.tag(TEXTS, scores=False) == plain
    assert server.tag([]) == []
    empty, (name,) = server.tag(["", "𠮷王芳"])
    assert empty == []
    assert (name["text"], name["start"], name["end"]) == ("王芳", 1, 3), "offsets count code points"


def test_clients_that_share_batches_get_their_own(server, trained):
    expected = [as_dicts(entities) for entities in Tagger.load(trained).predict(TEXTS)]

    def client(number):
        return [server.tag(TEXTS[i], scores=number % 2 == 0)[0] for i in range(number, len(TEXTS), 3)]

    with ThreadPoolExecutor(12) as pool:
        for number, answers in enumerate(pool.map(client, range(12))):
            for found, entities in zip(answers, expected[number::3], strict=True):
                assert all(("score" in entity) == (number % 2 == 0) for entity in found)
                assert same([{"score": None, **entity} for entity in found], entities) if number % 2 == 0 else True
                assert [entity["text"] for entity in found] == [entity["text"] for entity in entities]


BODY = 'expected a JSON object such as {"text": "沈遥：女"}'
LONG = json.dumps({"text": "王" * 20_001})
REFUSED = {
    "not JSON": ('{"text": ', 400, f"body: got no JSON (Expecting value at character 9), {BODY}"),
    "not UTF-8": (b'{"text": "\xff"}', 400, f"body: got what cannot be read as JSON in UTF-8, {BODY}"),
    "too deep": ("[" * 200_000, 400, f"body: got what cannot be read as JSON in UTF-8, {BODY}"),
    "nothing": ("", 422, f"body: got nothing, {BODY}"),
    "a list": ("[1]", 422, f"body: got a list, {BODY}"),
    "no text": ('{"scores": true}', 422, "text: got nothing, expected a string or a list of strings"),
    "null": ('{"text": null}', 422, "text: got null, expected a string or a list of strings"),
    "a number": ('{"text": 5}', 422, "text: got a number, expected a string or a list of strings"),
    "in a list": ('{"text": ["a", {}]}', 422, "text[1]: got an object, expected a string"),
    "scores": ('{"text": "a", "scores": "no"}', 422, "scores: got a string, expected true or false"),
    "a key": ('{"text": "a", "txet": 1}', 422, '"txet": got an unknown key, expected text and, if you like, scores'),
    "surrogate": ('{"text": "\\ud800"}', 422, "text: got half of a surrogate pair, expected whole Unicode characters"),
    "texts": (json.dumps({"text": ["王"] * 257}), 413, "text: got 257 texts, expected at most 256 a request"),
    "a text": (LONG, 413, "text: got 20,001 characters, expected at most 20,000 a text"),
    "one of them": (
        json.dumps({"text": ["王", "王" * 20_001]}),
        413,
        "text[1]: got 20,001 characters, expected at most 20,000 a text",
    ),
    "characters": (
        json.dumps({"text": ["王" * 20_000] * 6}),
        413,
        "text: got 120,000 characters in all, expected at most 100,000 a request",
    ),
    "bytes": (b" " * 2_100_000, 413, "body: got more than 2,097,152 bytes, expected at most 2,097,152"),
}


@pytest.mark.parametrize(("body", "status", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_bad_request_is_told_what_is_wrong(server, body, status, sentence):
    assert server.ask("POST", "/tag", body)[:2] == (status, {"error": sentence})


def test_other_requests_are_told_what_is_there(server):
    status, answer, headers = server.ask("PUT", "/tag", "{}")
    assert (status, answer) == (405, {"error": "method: got PUT /tag, expected POST"})
    assert headers["allow"] == "POST"
    status, answer, _ = server.ask("GET", "/nothing")
    paths = "GET /, POST /tag, GET /health or GET /openapi.json"
    assert (status, answer) == (404, {"error": f"path: got GET /nothing, expected {paths}"})
    status, answer, _ = server.ask("POST", "/tag", '{"text": "a"}', {"Content-Type": "text/plain"})
    assert (status, answer) == (415, {"error": "Content-Type: got text/plain, expected application/json"})
    pieces = (b" " * 100_000 for _ in range(30))
    status, answer, _ = server.ask("POST", "/tag", pieces, encode_chunked=True, headers=JSON)
    assert status == 413
    assert len(server.tag("王芳：女")) == 1, "it goes on"


def test_health_names_no_folder(server, trained):
    status, health, _ = server.ask("GET", "/health")
    assert status == 200
    assert len(health.pop("digest")) == 64
    types = list(Tagger.load(trained).scorer.types)
    assert health == {"status": "ok", "model": "best", "types": types, "version": __version__}


def test_health_answers_while_the_model_computes(server):
    longest = ["王芳，女，汉族。" * 600] * 20
    with ThreadPoolExecutor(1) as pool:
        tagging = pool.submit(server.tag, longest)
        waits = []
        while not tagging.done():
            begin = time.monotonic()
            assert server.ask("GET", "/health")[0] == 200
            waits.append(time.monotonic() - begin)
    assert len(tagging.result()) == 20
    assert len(waits) > 5, f"answers took {waits} s"


def test_openapi_describes_requests_answers_and_refusals(server):
    status, api, _ = server.ask("GET", "/openapi.json")
    assert status == 200
    assert set(api["paths"]) == {"/tag", "/health"}
    tag = api["paths"]["/tag"]["post"]
    assert set(tag["responses"]) == {"200", "400", "413", "415", "422", "503"}
    assert "parameters" not in tag
    schemas = api["components"]["schemas"]
    assert set(schemas["FoundEntity"]["properties"]) == {"text", "type", "start", "end", "score"}
    assert set(schemas["Question"]["properties"]) == {"text", "scores"}


def test_a_failure_tells_nothing_of_the_server():
    app, sent = web.make_app(), []

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("/secret/path")

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/fails", "headers": [], "query_string": b""}
    with pytest.raises(RuntimeError):
        asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"]) == {"error": "the service failed at this request: its log says why"}


def wait_until(browser, expression):
    until = time.monotonic() + 20
    while not (value := browser.ask(expression)):
        assert time.monotonic() < until, expression
        time.sleep(0.05)
    return value


def test_the_page_tags_and_shows_text_as_text(server, trained, tmp_path):
    hostile = "<img src=x onerror=alert(1)>𠮷王芳：女，汉族\n\n<b>李强</b>先生"
    with Browser(tmp_path / "profile") as browser:
        browser.open(server.url + "/", width=390)
        assert browser.ask("document.querySelectorAll('#legend mark').length") > 3
        browser.ask("document.querySelector('button').click()")
        wait_until(browser, "document.querySelectorAll('#texts li').length == 2")
        browser.ask(f"area.value = {json.dumps(hostile)}; area.focus()")
        for type in ("rawKeyDown", "keyUp"):
            enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 2}
            browser.call("Input.dispatchKeyEvent", type=type, **enter)
        first, second = hostile.split("\n\n")
        wait_until(browser, f"document.querySelector('#texts').textContent == {json.dumps(first + second)}")
        marks = browser.ask("[...document.querySelectorAll('#texts mark')].map((mark) => mark.textContent)")
        tagger = Tagger.load(trained)
        assert marks == [entity.text for text in (first, second) for entity in tagger.predict(text)]
        assert browser.ask("document.querySelectorAll('#texts img, #texts b').length") == 0
        told = browser.ask("document.querySelector('#texts mark').dataset.told")
        assert told.endswith("%")
        assert browser.ask("document.documentElement.scrollWidth") <= 390
        assert browser.complaints == []
        assert all(url.startswith((server.url, "data:")) for url in browser.requests)
        browser.ask("area.value = '王'.repeat(20001); tag()")
        told = wait_until(browser, "!fault.hidden && fault.textContent")
        assert told == "text[0]: got 20,001 characters, expected at most 20,000 a text"
        assert browser.ask("document.querySelectorAll('#texts li').length") == 0


def test_a_reload_fails_no_request(server, trained):
    """Old answers, then new ones; a directory that cannot be read changes nothing."""
    model, vocab = checkpoint.read_model(trained)
    config = Config().with_fields(embedding_size=16, bigram_size=8, hidden_size=16)
    weights = {name: value * 0.25 for name, value in model.state_dict().items()}
    fresh = server.model.with_name("fresh")
    checkpoint.write_model(fresh, weights, config=config, vocab=vocab)
    texts = TEXTS[:8]
    answers = [[as_dicts(entities) for entities in Tagger.load(path).predict(texts)] for path in (trained, fresh)]
    assert answers[0] != answers[1]
    before = server.ask("GET", "/health")[1]["digest"]
    ended, seen = threading.Event(), []

    def client(_):
        while not ended.is_set():
            found = server.tag(texts)
            scores = [entity["score"] for one in found for entity in one]
            expected = [[entity["score"] for one in answer for entity in one] for answer in answers]
            seen.append([scores == pytest.approx(scores_of, abs=1e-5) for scores_of in expected])

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, number) for number in range(4)]
        time.sleep(0.5)
        server.model.rename(server.model.with_name("old"))
        server.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 30
        while "not reloaded" not in server.errors.read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
        fresh.rename(server.model)
        server.process.send_signal(signal.SIGHUP)
        line = server.wait_for_line(2)
        time.sleep(0.5)
        ended.set()
        assert [one.result() for one in clients] == [None] * 4
    after = server.ask("GET", "/health")[1]["digest"]
    assert before != after
    assert line == f"{server.model}: reloaded, {after[:12]}"
    assert all(sum(one) == 1 for one in seen), "each answer is of one model"
    assert seen[0] == [True, False]
    assert seen[-1] == [False, True]


@pytest.fixture
def kept_signals():
    kept = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("kept_signals")
def test_a_port_in_use_is_said_at_once(trained, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", str(trained), "--port", str(port)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: --host 127.0.0.1 --port {port}: ")
    assert told.endswith("expected an address that is free here\n")


@pytest.mark.usefixtures("kept_signals")
def test_without_the_extra_it_says_what_to_install(trained, capsys, monkeypatch):
    for module in ("ray_bilstm.serve", "ray_bilstm.web"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert cli.main(["serve", str(trained)]) == 1
    assert capsys.readouterr().err == "error: serve needs fastapi: pip install 'ray_bilstm[serve]'\n"


def test_sigterm_answers_what_is_asked_and_leaves_nothing(server):
    family = [server.process, *psutil.Process(server.process.pid).children(recursive=True)]
    assert len(family) > 4
    with ThreadPoolExecutor(1) as pool:
        tagging = pool.submit(server.tag, ["王芳，女，汉族。" * 600] * 20)
        time.sleep(0.3)
        server.process.terminate()
        assert len(tagging.result()) == 20
    assert server.process.wait(60) == 0
    _, alive = psutil.wait_procs(family[1:], timeout=10)
    assert alive == []
    assert all("not reloaded" in line for line in server.errors.read_text().splitlines())
    with pytest.raises(ConnectionRefusedError):
        server.ask("GET", "/health")

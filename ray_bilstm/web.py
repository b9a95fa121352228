"""What the tagging service says over HTTP: requests, answers, limits and refusals, and its page.

Every refusal is JSON with one sentence: what was wrong, what came, what was expected. The service is `serve.py`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ray_bilstm import __version__
from ray_bilstm.highlight import head, legend, packaged, style
from ray_bilstm.predict import Entity

MOST_TEXTS = 256
"""In a request."""
MOST_TEXT_CHARACTERS, MOST_CHARACTERS = 20_000, 100_000
"""In one text; in all texts of a request."""
MOST_BYTES = 2**21
"""In the body of a request."""

EXAMPLE = "沈遥：女，中国国籍，无境外居留权，本科学历。\n现任东海银行副行长、董事。"
BODY = 'a JSON object such as {"text": "沈遥：女"}'
TEXT = "a string or a list of strings"


class Question(BaseModel):
    """What `POST /tag` takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str | list[str] = Field(
        description=f"one text, or up to {MOST_TEXTS} of them; up to {MOST_TEXT_CHARACTERS:,} characters each,"
        f" {MOST_CHARACTERS:,} together",
        examples=["沈遥：女，中国国籍", ["沈遥：女", "李强先生"]],
    )
    scores: bool = Field(default=True, description="whether entities get their scores; without, it takes less time")

    @property
    def texts(self) -> list[str]:
        return [self.text] if isinstance(self.text, str) else self.text


class FoundEntity(BaseModel):
    """`text[start:end]` of what was asked is an entity of `type`."""

    text: str
    type: str
    start: int = Field(description="in Unicode code points")
    end: int = Field(description="in Unicode code points, exclusive")
    score: float | None = Field(default=None, description="probability of exactly this span and type; only if asked")


class Result(BaseModel):
    """Of one text."""

    entities: list[FoundEntity] = Field(description="in order of appearance")


class Answer(BaseModel):
    """What `POST /tag` answers."""

    results: list[Result] = Field(description="one for each text, in their order; one for a single text too")


class Health(BaseModel):
    """What `GET /health` answers."""

    status: str = Field(examples=["ok"])
    model: str = Field(description="name of the model's directory", examples=["best"])
    digest: str = Field(description="of the model's files; another one after a reload of another model")
    types: list[str] = Field(description="entity types that the model knows", examples=[["NAME", "ORG"]])
    version: str = Field(description="of ray_bilstm")


class Refusal(BaseModel):
    """What any failed request gets."""

    error: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Refusal, "description": HTTPStatus(code).phrase} for code in (400, 413, 415, 422, 503)
}


def make_answer(found: Sequence[Sequence[Entity]]) -> Answer:
    """Of the entities of each text."""
    return Answer(
        results=[Result(entities=[FoundEntity(**entity._asdict()) for entity in entities]) for entities in found]
    )


def make_app() -> FastAPI:
    """An application without routes of its own but /openapi.json, which refuses as this module says."""
    app = FastAPI(title="ray_bilstm", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit)
    app.add_exception_handler(RequestValidationError, _refuse_body)
    app.add_exception_handler(StarletteHTTPException, _refuse_request)
    app.add_exception_handler(Exception, _refuse_unexpected)
    return app


def check_texts(question: Question) -> None:
    """Raises HTTPException 413 where a request is too large, 422 where a text cannot be written as UTF-8."""
    sizes = [len(text) for text in question.texts]
    if len(sizes) > MOST_TEXTS:
        raise HTTPException(413, f"text: got {len(sizes):,} texts, expected at most {MOST_TEXTS} a request")
    if max(sizes, default=0) > MOST_TEXT_CHARACTERS:
        place = "text" if isinstance(question.text, str) else f"text[{sizes.index(max(sizes))}]"
        raise HTTPException(
            413, f"{place}: got {max(sizes):,} characters, expected at most {MOST_TEXT_CHARACTERS:,} a text"
        )
    if sum(sizes) > MOST_CHARACTERS:
        raise HTTPException(
            413, f"text: got {sum(sizes):,} characters in all, expected at most {MOST_CHARACTERS:,} a request"
        )
    try:
        "".join(question.texts).encode("utf-8")
    except UnicodeEncodeError as error:
        raise HTTPException(422, "text: got half of a surrogate pair, expected whole Unicode characters") from error


class BodyLimit:
    """Refuses a body of more than MOST_BYTES before it is all in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        got = 0

        async def limited() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > MOST_BYTES:
                raise HTTPException(413, f"body: got more than {MOST_BYTES:,} bytes, expected at most {MOST_BYTES:,}")
            return message

        await self.app(scope, limited, send)


def render_page(name: str, types: Sequence[str]) -> str:
    """The page on which one tags a text, for the model `name`."""
    title = html.escape(name)
    return f"""{head(title, style=style(types) + packaged("serve.css"), script=packaged("serve.js"), asks=True)}
<body>
<header><h1>{title}</h1><div id="legend">{legend(types)}</div></header>
<main>
<form>
<label for="text">Text: a sentence or a paragraph a line <span lang="zh">文本</span></label>
<textarea id="text" rows="7" spellcheck="false">{html.escape(EXAMPLE)}</textarea>
<p><button>Tag <span lang="zh">标注</span></button> <kbd>Ctrl</kbd> <kbd>Enter</kbd></p>
</form>
<p id="error" role="alert" hidden></p>
<ol id="texts"></ol>
</main>
<footer><output for="text"></output></footer>
<script>{packaged("serve.js")}</script>
</body>
</html>
"""


def _refuse(status: int, sentence: str, headers: Any = None) -> JSONResponse:
    return JSONResponse(Refusal(error=sentence).model_dump(), status, headers)


async def _refuse_body(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    kind = request.headers.get("content-type", "nothing")
    if error.body and not _is_json(kind):
        return _refuse(415, f"Content-Type: got {kind}, expected application/json")
    status, sentence = describe(error.errors())
    return _refuse(status, sentence)


def _is_json(kind: str) -> bool:
    return kind.partition(";")[0].strip().lower() == "application/json"


def describe(errors: Sequence[Any]) -> tuple[int, str]:
    """Status and sentence for what FastAPI found wrong in a body."""
    error = max(errors, key=lambda one: len(one["loc"]))
    place, got = error["loc"][1:], _kind(error.get("input"))
    if error["type"] == "json_invalid":
        return 400, f"body: got no JSON ({error['ctx']['error']} at character {place[0]}), expected {BODY}"
    if error["type"] == "missing":
        return 422, f"{place[0]}: got nothing, expected {TEXT}" if place else f"body: got nothing, expected {BODY}"
    if not place:
        return 422, f"body: got {got}, expected {BODY}"
    if error["type"] == "extra_forbidden":
        return 422, f"{json.dumps(place[0])[:80]}: got an unknown key, expected text and, if you like, scores"
    if place[0] == "scores":
        return 422, f"scores: got {got}, expected true or false"
    if len(place) == 3:
        return 422, f"text[{place[2]}]: got {got}, expected a string"
    return 422, f"text: got {got}, expected {TEXT}"


def _kind(value: Any) -> str:
    """What JSON calls it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "something else")


async def _refuse_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    got, sentence = f"{request.method} {request.url.path[:80]}", str(error.detail)
    if error.status_code == 400:  # FastAPI's, where reading the body raised anything else
        sentence = f"body: got what cannot be read as JSON in UTF-8, expected {BODY}"
    elif error.status_code == 404:
        sentence = f"path: got {got}, expected GET /, POST /tag, GET /health or GET /openapi.json"
    elif error.status_code == 405:
        sentence = f"method: got {got}, expected {(error.headers or {}).get('Allow', 'another')}"
    return _refuse(error.status_code, sentence, error.headers)


async def _refuse_unexpected(request: Request, error: Exception) -> JSONResponse:
    return _refuse(500, "the service failed at this request: its log says why")

"""Methods behind an API of images, over a real HTTP server."""

import asyncio
import base64
import io
import json
import threading

import pytest
from aiohttp import web
from PIL import Image

from dsd.evaluation import methods
from dsd.evaluation.methods.base import jobs_of
from dsd.llm.records import CallFailed, Stopped
from tests.benchmark_folders import picture
from tests.method_cases import case, drawn


class Painting:
    """A server of images on 127.0.0.1 that speaks OpenAI's generation and editing."""

    def __init__(self, answer):
        self.answer, self.asked, self.most, self._now = answer, [], 0, 0

    async def handle(self, request):
        kind = request.path.rpartition("/")[2]
        body = {}
        if kind == "edits":
            async for part in await request.multipart():
                data = await part.read()
                body.setdefault(part.name, []).append(data if part.filename else data.decode())
        else:
            body = await request.json()
        self.asked.append((kind, body, request.headers.get("Authorization")))
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            found = self.answer(kind, body, len(self.asked))
            if asyncio.iscoroutine(found):
                found = await found
        finally:
            self._now -= 1
        return found if isinstance(found, web.Response) else web.json_response(found)


def painted(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"created": 1, "data": [{"b64_json": base64.b64encode(buffer.getvalue()).decode()}]}


def error(status, message, code=None):
    return web.json_response({"error": {"message": message, "code": code, "type": "t"}}, status=status)


@pytest.fixture
def serve():
    """Start a `Painting`; gives its address and what it saw."""
    stops = []

    def start(answer):
        server, ready, state = Painting(answer), threading.Event(), {}

        async def main():
            app = web.Application(client_max_size=2**26)
            app.router.add_post("/{path:.*}", server.handle)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            state.update(port=runner.addresses[0][1], stop=asyncio.Event(), loop=asyncio.get_running_loop())
            ready.set()
            await state["stop"].wait()
            await runner.cleanup()

        thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
        thread.start()
        assert ready.wait(10)
        stops.append((state, thread))
        server.url = f"http://127.0.0.1:{state['port']}/v1"
        return server

    yield start
    for state, thread in stops:
        state["loop"].call_soon_threadsafe(state["stop"].set)
        thread.join(10)


def api(server, **more):
    given = {
        "name": "api",
        "model": "openai/gpt-image-1",
        "api_base": server.url,
        "api_key": "sk-test-0123456789",
        "price_usd": 0.04,
    }
    return methods.create({**given, **more})


def test_an_api_edits_the_reference(serve):
    server = serve(lambda kind, body, n: painted(picture(body["prompt"][0])))
    method = api(
        server, template="Draw the {subject} anew: {prompt}", max_side_px=32, arguments={"size": "1024x1024"}
    )
    jobs = jobs_of([case("a", "{subject} in snow", subject_name="a cat"), case("b", subject_name="a dog")])
    found = drawn(method, jobs)
    method.close()
    assert found["a"].image.tobytes() == picture("Draw the a cat anew: {subject} in snow").tobytes()
    assert found["a"].cost_usd == 0.04
    assert found["a"].seconds > 0
    kind, body, key = server.asked[0]
    assert (kind, key) == ("edits", "Bearer sk-test-0123456789")
    assert body["size"] == ["1024x1024"]
    (sent,) = next(value for name, value in body.items() if name.startswith("image"))
    assert Image.open(io.BytesIO(sent)).size == (32, 32)
    assert method.ledger.usage.cost_usd == pytest.approx(0.08)


def test_an_api_draws_from_text_alone(serve):
    server = serve(lambda kind, body, n: painted(picture(body["prompt"])))
    found = drawn(api(server, references=0), jobs_of([case("a")]))
    assert server.asked[0][0] == "generations"
    assert found["a"].image.tobytes() == picture("the red creature on a beach").tobytes()


def test_refusals_failures_and_odd_answers_are_missing_values(serve):
    answers = {
        "policy": lambda: error(
            400, "Your request was rejected as a result of our safety system.", "content_policy_violation"
        ),
        "bad": lambda: error(400, "no such size"),
        "text": lambda: {"created": 1, "data": []},
        "junk": lambda: {"created": 1, "data": [{"b64_json": "bm8gcGljdHVyZQ=="}]},
        "base": lambda: {"created": 1, "data": [{"b64_json": "@@@"}]},
        "http": lambda: {"created": 1, "data": [{"url": "http://127.0.0.1:1/x.png"}]},
        "file": lambda: {"created": 1, "data": [{"url": "file:///etc/passwd"}]},
        "fine": lambda: painted(picture("fine")),
    }
    server = serve(lambda kind, body, n: answers[body["prompt"]]())
    method = api(server, references=0, retries={"malformed": 0})
    found = drawn(method, jobs_of([case(name, name) for name in answers]))
    statuses = {key: x.status for key, x in found.items()}
    assert statuses == dict.fromkeys(answers, "failed") | {"policy": "refused", "fine": "drawn"}
    assert "not https" in found["file"].reason
    assert "that openai/gpt-image-1 drew cannot be used" in found["junk"].reason
    assert found["junk"].cost_usd == 0.04  # it was paid for


def test_an_api_is_tried_again_when_it_stumbles(serve):
    def answer(kind, body, number):
        if number == 1:
            return error(503, "busy")
        if number == 2:
            return web.json_response(
                {"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.1"}
            )
        return painted(picture("x"))

    server = serve(answer)
    found = drawn(api(server, references=0), jobs_of([case("a")]))
    assert found["a"].status == "drawn"
    assert len(server.asked) == 3


def test_a_wrong_key_stops_everything_and_is_not_told(serve):
    server = serve(lambda kind, body, n: error(401, "Incorrect API key provided: sk-test-0123456789"))
    with pytest.raises(CallFailed) as caught:
        drawn(api(server, references=0, concurrency=2), jobs_of([case(str(i)) for i in range(50)]))
    assert "sk-test-0123456789" not in str(caught.value)
    assert len(server.asked) < 10


def test_the_budget_is_kept_and_what_is_paid_for_is_given(serve):
    server = serve(lambda kind, body, n: painted(picture("x")))
    method = api(server, references=0, concurrency=3, max_cost_usd=0.21)
    seen = []

    def draw():
        for job, _ in method.draw_all(jobs_of([case(str(i)) for i in range(30)])):
            seen.append(job.key)

    with pytest.raises(Stopped, match=r"max_cost_usd=0.21"):
        draw()
    assert len(server.asked) == len(seen) == 5


def test_no_call_is_made_that_could_exceed_the_budget(serve):
    server = serve(lambda kind, body, n: painted(picture("x")))
    with pytest.raises(Stopped):
        drawn(api(server, references=0, max_cost_usd=0.03), jobs_of([case("a")]))
    assert server.asked == []


def test_pictures_come_as_they_are_done_and_calls_are_bounded(serve):
    async def answer(kind, body, n):
        await asyncio.sleep(0.6 if body["prompt"] == "slow" else 0.02)
        return painted(picture("x"))

    server = serve(lambda *given: answer(*given))
    jobs = jobs_of([case("0", "slow"), *(case(str(i), "fast") for i in range(1, 6))])
    order = [job.key for job, _ in api(server, references=0, concurrency=2).draw_all(jobs)]
    assert order[-1] == "0" or order.index("0") > 1
    assert server.most == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"template": "x"}, "`template` must have a place"),
        ({"references": -1}, "`references` must be at least 0"),
        ({"max_side_px": 0}, "`max_side_px` must be at least 1"),
        ({"concurrency": 0}, "`concurrency` must be at least 1"),
        ({"timeout_s": 0}, "`timeout_s` must be above 0"),
        ({"price_usd": None, "max_cost_usd": 1}, "can be kept only with price_usd="),
        ({"retries": {"odd": 1}}, "`retries` has no kind 'odd'"),
        ({"model": "nobody/x"}, "knows no provider"),
    ],
)
def test_wrong_settings_of_an_api_are_refused(serve, given, said):
    with pytest.raises(ValueError, match=said):
        api(type("S", (), {"url": None}), **given)


def test_keys_stand_in_no_spec(serve):
    spec = methods.spec(api(type("S", (), {"url": "http://user:secret@host/v1"})))
    assert "sk-test" not in json.dumps(spec)
    assert "secret" not in json.dumps(spec)

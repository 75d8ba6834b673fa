"""Who draws: each method against what it must ask for, and over a real HTTP server where it asks one."""

import asyncio
import base64
import io
import json
import threading
import time

import numpy as np
import pytest
import torch
from aiohttp import web
from PIL import Image

import dsd
from dsd.evaluation import benchmarks, methods
from dsd.evaluation.benchmarks import BenchmarkCase
from dsd.evaluation.methods import Drawing, Job, Method
from dsd.evaluation.methods.base import jobs_of, seed_of
from dsd.llm.records import CallFailed, Stopped
from dsd.teachers import Teacher
from dsd.types import Grid
from tests.benchmark_folders import dreambench, picture


def case(key, prompt="the red creature on a beach", count=1, **more):
    pictures = tuple(picture((key, i), 64) for i in range(count))
    return BenchmarkCase(key=key, prompt=prompt, pictures=pictures, subject=key, **more)


@pytest.fixture
def jobs():
    return jobs_of(
        [
            case(f"c{i}", f"the {colour} creature on a beach")
            for i, colour in enumerate(["red", "blue", "red"])
        ]
    )


def test_seeds_are_of_the_picture_and_not_of_the_method():
    jobs = jobs_of([case("a"), case("b")], images_per_prompt=3, seed=4)
    assert [job.key for job in jobs] == ["a", "a_1", "a_2", "b", "b_1", "b_2"]
    assert len({job.seed for job in jobs}) == 6
    assert jobs[4].seed == seed_of("b", 1, 4) != seed_of("b", 1, 5)
    assert all(0 <= job.seed < 2**32 for job in jobs)
    with pytest.raises(ValueError, match="`images_per_prompt` must be at least 1; got 0"):
        jobs_of([case("a")], 0)


class Clumsy(Method):
    """Cannot draw blue, and sleeps while it draws."""

    batch_size = 2

    def __init__(self, error=ValueError):
        self.error, self.batches = error, []

    def draw(self, jobs):
        self.batches.append([job.key for job in jobs])
        time.sleep(0.02 * len(jobs))
        if any("blue" in job.case.prompt for job in jobs):
            raise self.error("no <blue> paint")
        return [picture(job.key) for job in jobs]


def test_what_one_picture_lacks_costs_the_others_nothing(jobs):
    method = Clumsy()
    found = {job.key: drawing for job, drawing in method.draw_all(jobs)}
    assert method.batches == [["c0", "c1"], ["c0"], ["c1"], ["c2"]]
    assert {key: x.status for key, x in found.items()} == {"c0": "drawn", "c1": "failed", "c2": "drawn"}
    assert found["c1"].reason == "ValueError: no <blue> paint"
    assert found["c0"].image.tobytes() == picture("c0").tobytes()
    assert 0.02 <= found["c2"].seconds < 0.1


def test_a_spent_budget_stops_a_method(jobs):
    with pytest.raises(Stopped):
        list(Clumsy(Stopped).draw_all(jobs))


class Short(Clumsy):
    def draw(self, jobs):
        return [picture("x")] * (len(jobs) - 1)


def test_a_method_that_draws_too_few_fails(jobs):
    found = [drawing for _, drawing in Short().draw_all(jobs)]
    assert [x.status for x in found] == ["failed"] * 3
    assert "drew 0 pictures for 1 jobs" in found[0].reason


def test_a_drawing_has_a_picture_if_it_was_drawn():
    for wrong in ({"status": "failed", "image": picture("x")}, {"status": "drawn"}):
        with pytest.raises(ValueError, match="A drawing has a status of drawn, refused, missing, failed"):
            Drawing(**wrong)


def test_a_copy_is_the_reference_and_the_ceiling_the_truth():
    cases = [case("a", count=2), case("b", truth=picture("truth"))]
    copies = [x for _, x in methods.create("copy").draw_all(jobs_of(cases))]
    assert [x.image.tobytes() for x in copies] == [x.reference.tobytes() for x in cases]
    assert copies[0].seconds is None
    truths = [x for _, x in methods.create("ceiling").draw_all(jobs_of(cases))]
    assert [x.status for x in truths] == ["missing", "drawn"]
    assert truths[1].image.tobytes() == picture("truth").tobytes()


class Pipe:
    """Draws the reference tinted by its noise; says what it was asked."""

    class backbone:
        device = torch.device("cpu")

    def __init__(self):
        self.calls = []

    def set_progress_bar_config(self, **given):
        assert given == {"disable": True}

    def __call__(self, image, prompt, generator, **given):
        self.calls.append((prompt, given))
        tints = [int(torch.randint(256, (), generator=g)) for g in generator]
        return type(
            "Out",
            (),
            {"images": [Image.new("RGB", x.size, (t, 0, 0)) for x, t in zip(image, tints, strict=True)]},
        )


def test_a_student_gets_reference_prompt_noise_and_its_arguments(jobs):
    pipe, alone = Pipe(), Pipe()
    more = {"num_inference_steps": 3, "batch_size": 2, "image_guidance": 2.0, "guidance_skip_steps": 0}
    method = methods.create({"name": "student", "model": pipe, **more})
    found = [x.image.tobytes() for _, x in method.draw_all(jobs)]
    assert [prompts for prompts, _ in pipe.calls] == [
        [jobs[0].case.prompt, jobs[1].case.prompt],
        [jobs[2].case.prompt],
    ]
    assert {**pipe.calls[0][1], **more, "batch_size": None} == {**pipe.calls[0][1], "batch_size": None}
    single = methods.create({"name": "student", "model": alone, "num_inference_steps": 3, "batch_size": 1})
    assert [x.image.tobytes() for _, x in single.draw_all(jobs)] == found
    assert len({*found}) == 3


def test_a_student_that_is_not_there_is_said_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder '/nowhere/m'"):
        methods.create({"name": "student", "model": "/nowhere/m"})
    with pytest.raises(ValueError, match="must be at least 1; got 0 and 28"):
        methods.create({"name": "student", "model": "a/b", "batch_size": 0})
    (tmp_path / "m").mkdir()
    (drawing,) = [
        x
        for _, x in methods.create({"name": "untrained", "model": str(tmp_path / "m")}).draw_all(
            jobs_of([case("a")])
        )
    ]
    assert "no dsd.json, which says what it was trained from" in drawing.reason


@pytest.fixture(scope="module")
def student(tiny_flux, tmp_path_factory):
    """A student whose weights were moved away from their start."""
    folder = tmp_path_factory.mktemp("student") / "s"
    made = dsd.Student(
        base={"name": "flux", "base": str(tiny_flux), "max_text_tokens": 20},
        conditioning="parallel",
        frame_size=(64, 64),
    )
    with torch.no_grad():
        for parameter in made.backbone.denoiser.parameters():
            parameter.mul_(1.3)
    made.save_pretrained(folder)
    return folder


def test_a_saved_student_draws_what_its_pipeline_draws_and_differs_from_its_start(student, jobs):
    method = methods.create({"name": "student", "model": str(student), "num_inference_steps": 2})
    found = [np.asarray(x.image, dtype=int) for _, x in method.draw_all(jobs)]
    pipe = dsd.DSDPipeline.from_pretrained(student)
    generator = torch.Generator().manual_seed(jobs[1].seed)
    theirs = pipe(
        image=jobs[1].case.reference, prompt=jobs[1].case.prompt, generator=generator, num_inference_steps=2
    )
    assert np.abs(found[1] - np.asarray(theirs.images[0], dtype=int)).max() <= 1
    start = methods.create({"name": "untrained", "model": str(student), "num_inference_steps": 2})
    before = [np.asarray(x.image, dtype=int) for _, x in start.draw_all(jobs)]
    assert np.abs(before[1] - found[1]).max() > 1
    assert start.pipe.backbone.max_text_tokens == 20
    long = " ".join(["creature"] * 30)
    assert method.cut_prompts([long, "the red creature"]) == [long]
    assert method.model == "s"


class Painter(Teacher):
    batch_size = 2

    def draw(self, prompts, seeds):
        assert all(x.layout == "1x1" and x.panels == (x.text,) for x in prompts)
        return [
            Grid(image=picture((x.text, seed)), prompt=x, seed=seed, teacher="p")
            for x, seed in zip(prompts, seeds, strict=True)
        ]


def test_text_only_sees_the_prompt_alone(jobs):
    method = methods.create({"name": "text_only", "teacher": Painter()})
    found = [x.image.tobytes() for _, x in method.draw_all(jobs)]
    assert found == [picture((job.case.prompt, job.seed)).tobytes() for job in jobs]


class Edits:
    """A pipeline of another package that takes a picture under a name of its own."""

    def __init__(self):
        self.asked = []

    def set_progress_bar_config(self, **_):
        pass

    def __call__(
        self,
        prompt,
        ip_adapter_image=None,
        generator=None,
        height=None,
        width=None,
        output_type="pil",
        num_images_per_prompt=1,
    ):
        self.asked.append((prompt, ip_adapter_image, height, width))
        count = 1 if isinstance(prompt, str) else len(prompt)
        return type("Out", (), {"images": [Image.new("RGBA", (8, 8), "red")] * count * num_images_per_prompt})


def test_a_pipeline_gets_the_reference_under_the_name_that_was_said():
    pipe = Edits()
    spec = {"name": "diffusers", "model": pipe, "image": "ip_adapter_image", "resize_px": 32, "size_px": 8}
    jobs = jobs_of([case("a", count=3)])
    (drawing,) = [x for _, x in methods.create(spec).draw_all(jobs)]
    prompt, given, height, width = pipe.asked[0]
    assert (prompt, given.size, height, width) == (jobs[0].case.prompt, (32, 32), 8, 8)
    assert (drawing.image.mode, drawing.model) == ("RGB", "Edits")
    list(methods.create({**spec, "several": True}).draw_all(jobs))
    assert [x.size for x in pipe.asked[1][1]] == [(32, 32)] * 3
    list(
        methods.create({"name": "diffusers", "model": pipe, "batch_size": 2}).draw_all(
            jobs_of([case("a"), case("b")])
        )
    )
    assert pipe.asked[2][:2] == (["the red creature on a beach"] * 2, None)


def test_a_wrong_argument_name_and_too_many_pictures_are_said():
    with pytest.raises(
        TypeError, match=r"no argument 'image'. Those with 'image' in their names: ip_adapter_image"
    ):
        _ = methods.create({"name": "diffusers", "model": Edits(), "image": "image"}).pipeline
    method = methods.create(
        {"name": "diffusers", "model": Edits(), "arguments": {"num_images_per_prompt": 2}}
    )
    (drawing,) = [x for _, x in method.draw_all(jobs_of([case("a")]))]
    assert drawing.reason == "ValueError: Edits returned 2 pictures for 1 jobs."
    with pytest.raises(ValueError, match="`size_px` must be at least 1; got 0"):
        methods.create({"name": "diffusers", "model": "x", "size_px": 0})


def test_a_folder_of_diffusers_is_drawn_with_as_stock_does(tiny_flux, jobs):
    from diffusers import FluxPipeline

    spec = {
        "name": "diffusers",
        "model": str(tiny_flux),
        "size_px": 32,
        "num_inference_steps": 2,
        "batch_size": 2,
    }
    method = methods.create(spec | {"arguments": {"max_sequence_length": 16}})
    found = [np.asarray(x.image, dtype=int) for _, x in method.draw_all(jobs)]
    stock = FluxPipeline.from_pretrained(tiny_flux)
    stock.set_progress_bar_config(disable=True)
    for ours, job in zip(found, jobs, strict=True):
        theirs = stock(
            prompt=job.case.prompt, height=32, width=32, num_inference_steps=2, max_sequence_length=16,
            generator=torch.Generator().manual_seed(job.seed),
        ).images[0]  # fmt: skip
        assert np.abs(ours - np.asarray(theirs, dtype=int)).max() <= 1
    words = {count: " ".join(["red"] * count) for count in (15, 16)}  # and the closing token
    assert method.cut_prompts(list(words.values())) == [words[16]]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"model": "/nowhere/m"}, "no folder '/nowhere/m'"),
        ({"model": "mini", "class_name": "FluxPipelin"}, "no pipeline 'FluxPipelin'"),
    ],
)
def test_pipelines_that_are_not_there_are_said(spec, said):
    with pytest.raises((FileNotFoundError, LookupError), match=said):
        _ = methods.create({"name": "diffusers", **spec}).pipeline


def folder_of(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(name).save(root / name)
    return root


def drawn(method, jobs):
    return {job.key: drawing for job, drawing in method.draw_all(jobs)}


def test_a_folder_by_keys(tmp_path):
    folder_of(tmp_path, ["a-b_0.png", "a-b_1.png", "c.png", "rest.txt.png"])
    (tmp_path / "d.png").write_bytes(b"no picture")
    method = methods.create(
        {
            "name": "folder",
            "path": tmp_path,
            "label": "Peer",
            "seconds_per_image": 2.5,
            "tuning_s_per_subject": 600,
        }
    )
    found = drawn(method, jobs_of([case(key) for key in ("a-b", "c", "d", "e")], 2))
    assert {key: x.status for key, x in found.items()} == {
        "a-b": "drawn", "a-b_1": "drawn", "c": "drawn", "c_1": "missing", "d": "failed", "d_1": "missing",
        "e": "missing", "e_1": "missing",
    }  # fmt: skip
    assert found["a-b_1"].image.tobytes() == picture("a-b_1.png").tobytes()
    assert (found["c"].seconds, found["c"].model, method.tuning_seconds()) == (2.5, "Peer", 600)
    assert "d.png cannot be used" in found["d"].reason


def test_a_folder_by_index(tmp_path):
    folder_of(tmp_path, ["x/1.png", "x/2.png"])
    lines = [{"key": "some/key", "image": "x/1.png"}, {"key": "some/key", "image": "x/2.png", "index": 1}]
    (tmp_path / "images.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = drawn(methods.create({"name": "folder", "path": tmp_path}), jobs_of([case("some/key")], 2))
    assert found["some/key_1"].image.tobytes() == picture("x/2.png").tobytes()


def test_a_folder_as_the_authors_of_dreambench_write_it(tmp_path):
    root = dreambench(tmp_path / "bench", {"object": 21})
    built = benchmarks.create({"name": "dreambench++", "root": root, "complete": False})
    names = [f"tgt_image/object_20_magic_cube/{i}_0.jpg" for i in range(9)]
    names += ["tgt_image/object_20_magic_cube/0_1.jpg", "tgt_image/object_07_spider-man/3_0.jpg"]
    folder_of(tmp_path / "peer", names)
    method = methods.create({"name": "folder", "path": tmp_path / "peer"})
    method.use_spellings(built.canonical)
    found = drawn(method, jobs_of(built.load(), 2))
    there = {key for key, x in found.items() if x.status == "drawn"}
    cube = "object_20_rubik's_cube"
    assert there == {*(f"{cube}-{i}" for i in range(9)), f"{cube}-0_1", "object_07_spider-man-3"}


@pytest.mark.parametrize(
    ("names", "index", "said"),
    [
        (["a.png", "a.jpg"], None, "are both picture number 0 of 'a'. Keep one"),
        (["tgt_image/x/one.png"], None, "is not called <prompt>_<index>"),
        ([], None, "holds no picture in the layout 'keys'"),
        ([], "[1]", "must be an object with `key` and `image`"),
        ([], '{"key": "a", "image": "../b.png"}', "outside the folder"),
        ([], '{"key": "a", "image": "b.png", "index": -1}', "a number from 0"),
        (["b.png", "c.png"], '{"key": "a", "image": "b.png"}\n{"key": "a", "image": "c.png"}', "Keep one"),
    ],
)
def test_folders_that_cannot_be_understood(tmp_path, names, index, said):
    folder = folder_of(tmp_path / "f", names)
    folder.mkdir(exist_ok=True)
    if index is not None:
        (folder / "images.jsonl").write_text(index)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        methods.create({"name": "folder", "path": folder})


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


def test_job_is_the_cases_key_and_a_number():
    assert Job(case=case("a"), index=2).key == "a_2"

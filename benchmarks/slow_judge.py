"""A judge that answers every question alike after a while, in OpenAI's protocol. Prints its address first."""

import argparse
import asyncio
import json

from aiohttp import web

OPINION = {
    "subject": "a round red creature with horns",
    "first_picture": "It stands on grass and looks to the left. " * 4,
    "second_picture": "It stands on a beach and looks ahead. " * 4,
    "comparison": "Colour, pattern, horns and proportions agree. " * 4,
    "different_pictures": True,
    "same_subject": True,
    "score": 0.9,
}


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.2, help="from question to answer")
    parser.add_argument("--answer", default=json.dumps(OPINION))
    arguments = parser.parse_args()
    message = {"role": "assistant", "content": arguments.answer}
    body = {
        "id": "c", "object": "chat.completion", "created": 1, "model": "judge",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 900, "completion_tokens": 150, "total_tokens": 1050},
    }  # fmt: skip
    encoded = json.dumps(body).encode()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(arguments.seconds)
        return web.Response(body=encoded, content_type="application/json")

    async def serve() -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()

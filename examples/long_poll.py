"""Long polling: a request that waits for one message.

Run it from the top of the project:

    trioloop serve examples/long_poll.py:app

or with ``hypercorn -k trio examples/long_poll.py:app``. In a second terminal Ada waits:

    curl -i http://127.0.0.1:8000/poll/ada

In a third she gets a message, and the first ``curl`` ends with it:

    curl -d "hello Ada" http://127.0.0.1:8000/send/ada

Without a message the answer is 204 after 20 seconds.
"""

from starlette.requests import Request

from trioloop import App, LoopHandler, Reply

app = App()


@app.route("/poll/{user}", methods=("GET",))
class Poll(LoopHandler[str]):
    """Waits for one message and answers with it."""

    idle_timeout = 20.0

    def init(self, request: Request) -> None:
        """Be found by those who send to this user."""
        self.join(("user", request.path_params["user"]))

    def info(self, message: str) -> Reply:
        """Answer, which ends the handler."""
        return Reply(200, f"{message}\n")


@app.route("/send/{user}", methods=("POST",))
class Send(LoopHandler):
    """Answers at once, from ``init``."""

    async def init(self, request: Request) -> Reply:
        """Hand the body to all who wait for messages of this user."""
        text = (await request.body()).decode(errors="replace")
        reached = self.hub.broadcast(("user", request.path_params["user"]), text)
        if not reached:
            return Reply(404, "nobody is waiting\n")
        return Reply(200, f"reached {reached}\n")

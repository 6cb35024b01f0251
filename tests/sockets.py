"""A page's end of a websocket. Channels has one too, but importing it needs a second web server."""

from __future__ import annotations

import json

from asgiref.testing import ApplicationCommunicator

PATIENCE = 30  # seconds: for a busy machine


class Page(ApplicationCommunicator):
    def __init__(self, application, path, **scope):
        self.scope = {
            "type": "websocket",
            "path": path,
            "query_string": b"",
            "headers": [],
            "subprotocols": [],
            **scope,
        }
        super().__init__(application, self.scope)

    async def connect(self):
        await self.send_input({"type": "websocket.connect"})
        return (await self.receive_output())["type"] == "websocket.accept"

    async def send_to(self, text_data):
        await self.send_input({"type": "websocket.receive", "text": text_data})

    async def send_json_to(self, data):
        await self.send_to(json.dumps(data))

    async def receive_output(self, timeout=PATIENCE):
        return await super().receive_output(timeout)

    async def receive_json_from(self):
        message = await self.receive_output()
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])

    async def disconnect(self):
        await self.send_input({"type": "websocket.disconnect", "code": 1000})
        await self.wait()

    async def wait(self, timeout=PATIENCE):
        return await super().wait(timeout)

"""A validator's organic API on a port, over miners that answer as they are told."""

from __future__ import annotations

import asyncio
import threading
from random import Random

import httpx
from subnet_fakes import FAST, TIER, TIERS, FakeDendrite, good, pair, peer, roster

from neural_condense_core.api_keys import ApiUsers
from neural_condense_core.records import Records
from neural_condense_core.records.explaining import explain
from neural_condense_core.validator.gate import GateParts, create_app
from neural_condense_core.validator.organic import Board, OrganicService
from neural_condense_core.validator.sampling import SamplePool
from neural_condense_core.wire.listening import bind, make_server
from neural_condense_core.wire.signing import NonceStore

VALIDATOR = pair("validator")
MARKER = "zanzibar-marker"
TEXT = f"The {MARKER} is in this text, which a user sends. " * 8


class Gate:
    """A served gate over fake miners."""

    def __init__(self, folder):
        self.users = ApiUsers(folder / "keys.sqlite")
        self.records = Records(folder / "validator.sqlite")
        self.store = NonceStore(folder / "nonces.sqlite")
        ranking = {
            TIER.name: ((peer(0, "m0"), 0.9), (peer(1, "m1"), 0.5)), FAST.name: (),
        }  # fmt: skip
        self.board = Board(TIERS, roster(peer(0, "m0"), peer(1, "m1")), ranking)
        self.dendrite = FakeDendrite({"m0": good(0.9), "m1": good(0.5)})
        service = OrganicService(
            self.dendrite, lambda: self.board, lambda tier, who: True, SamplePool(),
            self.records.write_organic, Random(0),
        )  # fmt: skip
        parts = GateParts(
            service, self.users, lambda: self.board, lambda who: explain(self.records, who),
            VALIDATOR.ss58_address, self.store,
        )  # fmt: skip
        self.app = create_app(parts)
        self.server = make_server(self.app)
        self.listener = bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(
            target=lambda: asyncio.run(self.server.serve(sockets=[self.listener]))
        )
        self.thread.start()
        self.user, self.key = self.users.add("alice", quota=1_000)

    def close(self):
        self.server.should_exit = True
        self.thread.join(20)
        self.listener.close()
        for one in (self.users, self.records, self.store):
            one.close()

    def post(self, body=None, *, path="/v1/condense", headers=None, **more):
        sent = {"context": TEXT} if body is None else body
        given = {"Authorization": f"Bearer {self.key}"} if headers is None else headers
        with httpx.Client(trust_env=False) as http:
            return http.post(self.url + path, json=sent, headers=given, **more)

"""``condense explain``: why a miner has its score.

On the validator's machine it reads the records; anywhere else a miner asks the validator's API,
signed by its own hotkey.
"""

from __future__ import annotations

from typing import Annotated

import typer

from neural_condense_core.chain.wallets import open_hotkey
from neural_condense_core.client.organic import OrganicClient, Signer
from neural_condense_core.commands.state_folder import StateFolder, find_state
from neural_condense_core.commands.wallet_flags import (
    DEFAULT_FOLDER,
    HotkeyName,
    WalletFolder,
    WalletName,
)
from neural_condense_core.console import check_writable, messages, write_json
from neural_condense_core.errors import ConfigError
from neural_condense_core.records import FILE_NAME, Records
from neural_condense_core.records.explaining import DEFAULT_ROUNDS, MAX_ROUNDS
from neural_condense_core.records.explaining import explain as explain_miner
from neural_condense_core.records.standing import tiers as tiers_of
from neural_condense_core.wire.organic import Explanation


def explain(
    hotkey: Annotated[str | None, typer.Option("--hotkey", help="The miner's hotkey.")] = None,
    uid: Annotated[int | None, typer.Option("--uid", min=0, help="Or its uid.")] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, max=MAX_ROUNDS, help="Rounds to tell.")
    ] = DEFAULT_ROUNDS,
    state: StateFolder = None,
    url: Annotated[
        str | None, typer.Option("--url", help="A validator's API; asked by the miner itself.")
    ] = None,
    validator: Annotated[
        str | None, typer.Option("--validator", help="With --url: the validator's hotkey.")
    ] = None,
    wallet: WalletName = "default",
    key: HotkeyName = "default",
    folder: WalletFolder = DEFAULT_FOLDER,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="PATH|-", help="Everything; - is stdout.")
    ] = None,
) -> None:
    """Tell why a miner has its score, from the records.

    Raises
    ------
    ConfigError
        It is not clear which miner is meant, or nobody knows it.
    """
    check_writable(json_path)
    if url is not None:
        if validator is None:
            raise ConfigError("--url needs --validator, the hotkey that the request is signed for")
        _, pair = open_hotkey(wallet, key, folder.expanduser())
        with OrganicClient(url, signer=Signer(pair, validator)) as client:
            found = client.explain()
    elif (hotkey is None) == (uid is None):
        raise ConfigError("say which miner: --hotkey H or --uid N")
    else:
        with Records(find_state(state) / FILE_NAME, read_only=True) as records:
            name = hotkey if hotkey is not None else records.hotkey_of(uid or 0)
            if name is None:
                raise ConfigError(f"the records hold no score of uid {uid}")
            found = explain_miner(records, name, limit=rounds, tiers=tiers_of(records))
    write_json(json_path, {"schema": 1, **found.model_dump(mode="json")})
    if json_path is None:
        _print(found)


def _print(found: Explanation) -> None:
    console = messages()
    console.print(f"{found.hotkey}, uid {found.uid}", markup=False)
    for tier, rating in found.ratings.items():
        console.print(f"rating in tier {tier}: {rating:.3f}", markup=False)
    if found.weight is None:
        console.print("no weight in the last submission")
    else:
        held = "the chain holds it" if found.weight["confirmed"] else "not seen on the chain yet"
        console.print(f"weight {found.weight['weight']:.4f}, block {found.weight['block']}, {held}")
    for line in found.why:
        console.print(line, markup=False, soft_wrap=True)
    if found.organic:
        counts = ", ".join(f"{n} x {code}" for code, n in sorted(found.organic.items()))
        console.print(f"users' requests: {counts}", markup=False)

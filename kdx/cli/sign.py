"""``kdx sign``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kdx.cli.output import err, out, print_json, shown
from kdx.cli.shared_options import JSON_OPTION

if TYPE_CHECKING:
    from kdx.bundle.seal import Seal

PASSPHRASE = "KDX_KEY_PASSPHRASE"  # noqa: S105  # the variable's name


def sign(
    bundle: Path | None = typer.Argument(None, help="Bundle to sign."),
    key: Path | None = typer.Option(None, "--key", metavar="NAME.key", help="The private key to sign with."),
    new_key: Path | None = typer.Option(
        None, "--new-key", metavar="NAME", help="Make NAME.key, to be kept, and NAME.pub, to be given to the line."
    ),
    passphrase: bool = typer.Option(False, "--passphrase", help="With --new-key: ask for one that encrypts NAME.key."),
    json: bool = JSON_OPTION,
) -> None:
    """Sign a bundle, so that a line can refuse what was altered or comes from elsewhere.

    Writes bundle.sig into the bundle: an Ed25519 signature over bundle.json, which holds the hash
    of every other file, and over the engines that are in it. Sign last: calibrating takes the
    signature away, and an engine built later is not covered. Use it with kdx.load(...,
    require_signature="NAME.pub"), or --require-signature.

    A passphrase is asked for, or taken from the environment variable KDX_KEY_PASSPHRASE.
    """
    from kdx.errors import OptionError

    if (key is None) == (new_key is None) or (key is None) != (bundle is None) or (passphrase and not new_key):
        raise OptionError(
            "sign takes a bundle and the key to sign it with, or makes a key",
            expected="kdx sign BUNDLE --key NAME.key, or kdx sign --new-key NAME [--passphrase]",
        )
    if new_key is not None and not new_key.name:
        raise OptionError(
            "--new-key names no file", expected="the beginning of two names, e.g. line", received=str(new_key)
        )
    if new_key is not None:
        _make(new_key, passphrase, json=json)
        return
    assert bundle is not None
    assert key is not None
    from kdx.bundle.keys import private_key
    from kdx.bundle.signing import sign_bundle

    _show(bundle, sign_bundle(bundle, private_key(key, lambda: _ask(f"Passphrase of {key}"))), json=json)


def _make(name: Path, passphrase: bool, *, json: bool) -> None:
    from kdx.bundle.keys import make_keys
    from kdx.loading.load import require_outside_bundles

    require_outside_bundles(name.parent, "new_key", name)
    secret, public, key_sha256 = make_keys(name, _ask("Passphrase", confirm=True) if passphrase else None)
    if json:
        print_json({"private": secret, "public": public, "key_sha256": key_sha256})
        return
    out.print(f"[bold]{shown(secret)}[/]: private; whoever has it can sign. Keep it off the line")
    out.print(f"[bold]{shown(public)}[/]: public; goes to the line")
    out.print(f"  fingerprint {key_sha256}")


def _ask(text: str, *, confirm: bool = False) -> str:
    from kdx.errors import OptionError

    given = os.environ.get(PASSPHRASE)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise OptionError("the key has a passphrase, and nobody is there to type it", fix=f"set {PASSPHRASE}")
    try:
        return str(typer.prompt(text, hide_input=True, confirmation_prompt=confirm, err=True))
    except typer.Abort:  # Ctrl-C, which typer gives another name
        raise KeyboardInterrupt from None


def _show(bundle: Path, seal: Seal, *, json: bool) -> None:
    from kdx.bundle.open import open_bundle

    statement = seal.statement
    if json:
        print_json({"bundle": str(bundle), "key_sha256": seal.key_sha256, "statement": statement})
        return
    if open_bundle(bundle).manifest.threshold_of("fp32") is None:
        err.print("[yellow]not calibrated:[/] calibrating takes the signature away again")
    engines = sorted({Path(name).parent.name for name in statement.engines})
    out.print(f"[bold]{shown(bundle)}[/]: signed by {seal.key_sha256}")
    out.print(f"  bundle.json {statement.index_sha256[:16]}…; engines: {', '.join(engines) or 'none'}")

"""``kdx serve``."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from kdx.cli.error_output import LinesCommand
from kdx.cli.output import out, print_json_line, say
from kdx.cli.shared_options import REQUIRE_SIGNATURE_OPTION, THREADS_OPTION, TRIGGER_TIMEOUT_OPTION
from kdx.workflows.packages import needs

COMMAND = LinesCommand


def serve(
    bundles: list[Path] = typer.Argument(help="Bundles; each is named after its folder."),
    host: str = typer.Option("127.0.0.1", help="Address to listen on."),
    port: int = typer.Option(8080, min=0, max=65535, help="Port; 0 takes a free one."),
    tls_cert: Path | None = typer.Option(None, "--tls-cert", help="Certificate (PEM), for HTTPS."),
    tls_key: Path | None = typer.Option(None, "--tls-key", help="Private key of the certificate (PEM)."),
    token_file: Path | None = typer.Option(None, help="File with the token that every request must have."),
    no_token: bool = typer.Option(False, "--no-token", help="Let other machines use the server without a token."),
    product: str | None = typer.Option(None, help="Finds the bundle's name in the part: a regex, `(?P<product>...)`."),
    queue: int = typer.Option(32, min=1, max=10_000, help="Requests that a bundle may have at once; more get a 503."),
    max_body: int = typer.Option(64, min=1, max=4096, help="Largest body of a request, in MiB."),
    data: Path | None = typer.Option(None, help="Folder that keeps parts which are not good, for review on the page."),
    camera: str | None = typer.Option(None, help="GenICam camera, or a video, that POST /v1/trigger asks for a frame."),
    trigger_timeout: float | None = TRIGGER_TIMEOUT_OPTION,
    data_gb: int | None = typer.Option(None, "--data-gb", min=1, help="Most GB of images kept in --data. Default: 10."),
    plc: str | None = typer.Option(None, help="Write verdicts to a PLC: modbus://HOST/REGISTER or opc.tcp://HOST."),
    backend: str = typer.Option("auto", help="Backend to run on."),
    precision: str | None = typer.Option(None, help="Graph of the bundle. Default: the fastest that passes."),
    threads: int | None = THREADS_OPTION,
    require_signature: list[Path] = REQUIRE_SIGNATURE_OPTION,
    json: bool = typer.Option(False, "--json", help="Print the URL and the bundles as one line of JSON."),
) -> None:
    """Judge images that other programs send over HTTP: POST an image, get its verdict as JSON.

    A browser shows the line at /, and /openapi.json describes the interface. Only this machine can
    reach the server, unless --host names another address; then --token-file is needed. On SIGTERM
    or Ctrl-C, requests that were accepted are answered, and the exit status is 0.
    """
    extras = "camera," * bool(camera) + "plc," * bool(plc) + "serve"
    with needs(extras, "kdx serve"):
        from kdx.station.plc.address import parse_plc
        from kdx.station.plc.connecting import plc_at
        from kdx.station.serve.options import ServeOptions, read_token
        from kdx.station.serve.server import LoadOptions, server_of

        at = None if plc is None else plc_at(parse_plc(plc))
        options = ServeOptions(
            host=host, port=port, tls_cert=tls_cert, tls_key=tls_key, token=read_token(token_file), no_token=no_token,
            places=queue, max_body=max_body << 20, product=product, data=data, data_bytes=data_gb and data_gb * 10**9,
            camera=camera, trigger_timeout=trigger_timeout, plc=at,
        )  # fmt: skip
        how = LoadOptions(backend=backend, precision=precision, threads=threads, require_signature=require_signature)
        with server_of(bundles, options, how, say) as server:
            if json:
                print_json_line({"url": server.url, "bundles": list(server.judges)})
            else:
                out.print(f"{server.url}: {escape(', '.join(server.judges))}; end with Ctrl-C")
            server.run()
            say(server.ended)

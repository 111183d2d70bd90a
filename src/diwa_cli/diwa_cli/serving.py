"""`diwa serve-policy`: the networks of skills, for an arm on another machine."""

from contextlib import suppress
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from diwa_cli.arguments import call


def serve_policy(args: list[str]) -> int:
    from diwa_deploy.remote import PORT
    from diwa_deploy.serving import PolicyServer
    from diwa_learning.onnx_agent import Runtime

    def command(
        skills: Positional[list[str]],
        checkpoint: Path | None = None,
        policy: Literal["finetuned", "base"] = "finetuned",
        host: str = "127.0.0.1",
        port: int = PORT,
        threads: int = 1,
        ddim_steps: int = 0,
        runtime: Runtime = "auto",
    ) -> None:
        """Compute a skill's decisions for an arm on another machine, until Ctrl-C.

        Launch that arm's node `policy` with `server:=http://HOST:PORT`. There is no password: stay in the lab's
        own network, or forward the port with ssh.

        Args:
            skills: Skills to serve.
            checkpoint: Folder that holds their bundles; without it, the installed ones.
            policy: Policy of each bundle to serve.
            host: Address to listen on; 0.0.0.0 = all of this machine's.
            port: TCP port.
            threads: Threads of a decision.
            ddim_steps: Deterministic denoising steps (DDIM) for each chunk; 0 = all of the policy's steps, with noise.
            runtime: Library that computes; `auto` = ONNX Runtime where it is installed.
        """
        made = PolicyServer((host, port), skills, checkpoint, policy, threads, ddim_steps, runtime)
        with made as server, suppress(KeyboardInterrupt):
            print(f"{', '.join(skills)} at http://{host}:{server.server_port}, until Ctrl-C", flush=True)
            server.serve_forever()

    return call(command, "serve-policy", args)

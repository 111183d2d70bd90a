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
        """Decide for an arm on another machine, until Ctrl-C; its node `policy` is given `server:=http://HOST:PORT`.

        Anyone who reaches the port may ask: keep to the lab's own network, or forward the port with ssh.

        Args:
            skills: Skills to serve, all of one contract.
            checkpoint: Folder that holds their bundles; without it those that are installed.
            policy: Which of each bundle's policies.
            host: Address to listen on; 0.0.0.0 is every one that this machine has.
            port: TCP port.
            threads: Threads of a decision.
            ddim_steps: Deterministic steps to sample a chunk in; 0 takes all of the policy's, with noise.
            runtime: What computes; auto is ONNX Runtime where it is installed.
        """
        made = PolicyServer((host, port), skills, checkpoint, policy, threads, ddim_steps, runtime)
        with made as server, suppress(KeyboardInterrupt):
            print(f"{', '.join(skills)} at http://{host}:{server.server_port}, until Ctrl-C", flush=True)
            server.serve_forever()

    return call(command, "serve-policy", args)

"""The README's programs run as they are printed."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import trio

import corestore
import hyperfs
from tests.support.limits import HANG_SECONDS

README = (Path(__file__).parent.parent.parent / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


async def test_the_drive_program_lists_and_reads(tmp_path, capsys):
    async with (
        corestore.open(tmp_path / "writer") as store,
        corestore.open_swarm(store) as swarm,
        hyperfs.open(store, name="photos", create=True) as drive,
    ):
        await drive.write("/2026/beach.jpg", b"jpeg")
        await drive.sync()
        host, port = await swarm.listen("127.0.0.1", 0)
        await swarm.join(drive.discovery_key)
        source = PROGRAMS[0].split("trio.run(")[0]
        assert "~/photos.store" in source
        assert '"localhost", 4000' in source
        source = source.replace("~/photos.store", str(tmp_path / "reader"))
        source = source.replace('"localhost", 4000', f'"{host}", {port}')
        names: dict[str, object] = {}
        exec(compile(source, "README.md", "exec"), names)
        with trio.fail_after(HANG_SECONDS):
            await names["main"](str(drive.key))
    assert capsys.readouterr().out == "b'beach.jpg' 4\nb'jpeg'\n"


async def test_the_log_program_appends_and_gets(tmp_path):
    source = PROGRAMS[1].replace("~/log.store", str(tmp_path / "log"))
    assert str(tmp_path) in source
    names: dict[str, object] = {"corestore": corestore}
    exec("async def main():\n" + textwrap.indent(source, "    "), names)
    await names["main"]()

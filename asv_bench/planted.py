"""Does `asv continuous` flag a kernel that was made 30 % slower, and leave alone commits that change nothing?

In a temporary clone of the last commit: `python planted.py`, or `python planted.py 5` for 5 commits that change
nothing in place of 3. It takes about 15 minutes, and exits with 1 where asv flags what it should not, or the reverse.
"""

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
KERNEL = "fastpool/kernels/max_pool.py"
#: As the README has it for a change to one kernel.
FACTOR = "1.15"
OPTIONS = ["--interleave-rounds", "--attribute", "rounds=6", "--factor", FACTOR]
BENCH = ["--bench", r"max_pool\.\w+\.time_by_shape\('fastpool(, out=)?', 'inception'"]


def slower(source: str) -> str:
    """Have the kernel do 3 of every 10 rows a second time."""
    again = r"\g<0>\n\g<indent>pool_rows(start, start + 3 * (stop - start) // 10\g<rest>"
    planted, count = re.subn(
        r"^(?P<indent> +)pool_rows\(start, stop(?P<rest>, .*\))$", again, source, flags=re.MULTILINE
    )
    if count != 1:
        raise ValueError(f"{KERNEL} has {count} calls of pool_rows on one line, not 1")
    return planted


def flagged(clone: Path, base: str, head: str) -> bool:
    """Whether asv finds that the commit `head` is slower than `base`; print every ratio."""

    def asv(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "asv", *arguments]
        return subprocess.run(command, cwd=clone / "asv_bench", stdout=subprocess.PIPE, text=True)

    found = asv("continuous", *OPTIONS, *BENCH, base, head)
    if "SIGNIFICANTLY" not in found.stdout:
        raise RuntimeError(found.stdout)
    compared = asv("compare", "--factor", FACTOR, base, head).stdout.splitlines()
    print(*(line for line in compared if line.startswith("|") and "n/a" not in line), sep="\n")
    return found.returncode != 0


def main(unchanged: int = 3) -> int:
    """Compare commits that change nothing, then one that is slower; return the exit code."""
    with TemporaryDirectory() as directory:
        clone = Path(directory) / "fastpool"

        def git(*arguments: str | Path) -> str:
            return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

        def commit(message: str) -> str:
            author = ["-c", "user.name=planted", "-c", "user.email=planted@localhost"]
            git("-C", clone, *author, "commit", "--quiet", "--all", "--allow-empty", "--message", message)
            return git("-C", clone, "rev-parse", "HEAD")

        git("clone", "--quiet", HERE.parent, clone)
        git("-C", clone, "checkout", "--quiet", "-B", "main")
        base = git("-C", clone, "rev-parse", "HEAD")
        heads = {commit(f"Change nothing, {i}"): False for i in range(unchanged)}
        kernel = clone / KERNEL
        kernel.write_text(slower(kernel.read_text(encoding="utf-8")), encoding="utf-8")
        heads[commit("Be 30 % slower")] = True
        wrong = 0
        for head, is_slower in heads.items():
            found = flagged(clone, base, head)
            wrong += found != is_slower
            print(f"{'30 % slower' if is_slower else 'unchanged'}: {'flagged' if found else 'not flagged'}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

"""Make what `asv publish` wrote need no network: its page takes JavaScript from elsewhere, which this puts beside it.

After `npm install --no-package-lock` and `asv publish`, both in this directory: `python offline.py`.
"""

import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
#: What `package.json` installs, by the name of the file that the page asks for.
FILES = {
    "bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
    "bootstrap.min.js": "bootstrap/dist/js/bootstrap.min.js",
    "jquery-3.3.1.min.js": "jquery/dist/jquery.min.js",
    "jquery.flot.categories.min.js": "flot/jquery.flot.categories.js",
    "jquery.flot.min.js": "flot/jquery.flot.js",
    "jquery.flot.orderBars.js": "flot-orderbars/js/jquery.flot.orderBars.js",
    "jquery.flot.selection.min.js": "flot/jquery.flot.selection.js",
    "jquery.flot.time.min.js": "flot/jquery.flot.time.js",
    "md5.min.js": "blueimp-md5/js/md5.min.js",
    "stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
}
#: What the style sheet asks for.
FONTS = "bootstrap/dist/fonts"


def offline(pages: Path, modules: Path = HERE / "node_modules") -> None:
    """Copy every file that the page asks others for into `pages`, and have the page ask for the copy."""

    def local(tag: re.Match[str]) -> str:
        file = FILES[tag["file"]]
        (pages / "lib" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(modules / file, pages / "lib" / file)
        # Digests and the like are of the file elsewhere.
        return f'{tag["head"]}"lib/{file}">'

    shutil.copytree(modules / FONTS, pages / "lib" / FONTS, dirs_exist_ok=True)
    index = pages / "index.html"
    elsewhere = r'(?P<head><(?:script|link)\b[^>]*(?:src|href)=)"https://[^"]*/(?P<file>[^"/]+)"[^>]*>'
    index.write_text(re.sub(elsewhere, local, index.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    offline(*map(Path, sys.argv[1:] or [HERE / ".asv/html"]))

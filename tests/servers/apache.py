"""Real Apache servers, each in a folder of its own."""

import os
from dataclasses import dataclass

from tests.servers.server import Server, is_listening, start_on_free_port

_MODULES = ("mpm_event", "authn_core", "authz_core", "alias", "dir", "autoindex", "mime")
_CONFIGURATION = """
{modules}
ServerRoot {folder}
PidFile {folder}/pid
Listen 127.0.0.1:{port}
ServerName 127.0.0.1
ErrorLog /dev/stderr
DocumentRoot {root}
TypesConfig /dev/null
AddType text/html .html
<Directory {root}>
    Options +Indexes
    Require all granted
    IndexOptions {options}
    {more}
</Directory>
"""


@dataclass
class Apache:
    """A running Apache."""

    server: Server
    port: int
    root: str

    @property
    def url(self) -> str:
        """Its root, with a slash at the end."""
        return f"http://127.0.0.1:{self.port}/"


def start_apache(
    folder: str | os.PathLike[str], root: str | os.PathLike[str], options: str = "FancyIndexing", more: str = ""
) -> Apache:
    """Start Apache in `folder`, serving `root`, with `IndexOptions options` and more lines for the directory."""
    home = os.fspath(folder)
    os.makedirs(home, exist_ok=True)
    modules = "\n".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in _MODULES)
    if os.geteuid() == 0:
        # It refuses to serve as root: its own account must then be able to read what it serves.
        modules += "\nUser www-data\nGroup www-data"

    def make(port: int) -> Server:
        path = os.path.join(home, "apache.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(
                _CONFIGURATION.format(
                    modules=modules, folder=home, port=port, root=os.fspath(root), options=options, more=more
                )
            )
        argv = ["/usr/sbin/apache2", "-f", path, "-D", "FOREGROUND"]
        return Server(argv, home, lambda: is_listening(port))

    process, port = start_on_free_port(make)
    return Apache(process, port, os.fspath(root))

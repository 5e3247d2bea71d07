"""Whose credentials go where."""

from app.keychain import Keychain, Server
from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.location import Location


def at(text: str) -> Location:
    return Location.parse(text)[0]


def with_password(text: str) -> Credentials:
    return Credentials(password=Secret(text))


def test_credentials_hold_for_everything_on_their_server_and_for_nothing_else() -> None:
    keychain = Keychain()
    keychain.add(at("http://h:8000/a/"), with_password("one"))
    assert keychain.get(at("http://H:8000/b/c.img")) == with_password("one")
    for other in ("http://h/", "https://h:8000/", "ftp://h:8000/", "http://i:8000/"):
        assert keychain.get(at(other)) == NO_CREDENTIALS


def test_two_people_on_one_server_are_two() -> None:
    keychain = Keychain()
    keychain.add(at("ssh://alice@h/"), with_password("alice's"))
    keychain.add(at("ssh://bob@h/"), with_password("bob's"))
    assert keychain.get(at("ssh://alice@h/srv/a")) == with_password("alice's")
    assert keychain.get(at("sftp://bob@h/srv/a")) == with_password("bob's")
    assert keychain.get(at("ssh://h/")) == NO_CREDENTIALS


def test_clusters_of_ceph_are_told_apart_by_their_options() -> None:
    keychain = Keychain()
    keychain.add(at("rbd:pool:conf=/etc/ceph/a.conf"), with_password("a"))
    assert keychain.get(at("rbd:other/image:conf=/etc/ceph/a.conf")) == with_password("a")
    assert keychain.get(at("rbd:pool:conf=/etc/ceph/b.conf")) == NO_CREDENTIALS


def test_a_signed_query_is_for_its_own_location() -> None:
    keychain = Keychain()
    keychain.add(at("https://h/a.img"), Credentials(query=Secret("sig=1")))
    assert keychain.get(at("https://h/a.img")).query == Secret("sig=1")
    assert keychain.get(at("https://h/b.img")).query is None


class Drawer:
    """A keyring that is a dictionary, and counts how often it is asked."""

    def __init__(self) -> None:
        self.held: dict[Server, Credentials] = {}
        self.asked = 0

    def load(self, server: Server) -> Credentials:
        self.asked += 1
        return self.held.get(server, NO_CREDENTIALS)

    def save(self, server: Server, credentials: Credentials) -> None:
        self.held[server] = credentials

    def forget(self, server: Server) -> bool:
        return self.held.pop(server, None) is not None


def test_nothing_is_saved_but_by_wish_and_not_before_it_was_right() -> None:
    drawer = Drawer()
    keychain = Keychain(drawer)
    keychain.add(at("ftp://h/"), with_password("one"))
    assert not keychain.keep(at("ftp://h/"))
    keychain.add(at("ftp://h/"), with_password("two"), save=True)
    assert drawer.held == {}
    assert keychain.is_to_keep(at("ftp://h/pub/"))
    assert keychain.keep(at("ftp://h/pub/"))
    assert list(drawer.held.values()) == [with_password("two")]
    assert not keychain.is_to_keep(at("ftp://h/"))


def test_what_is_saved_is_asked_for_once_and_what_is_typed_goes_before_it() -> None:
    drawer = Drawer()
    drawer.held[Server.of(at("ftp://h/"))] = Credentials(username="bob", password=Secret("saved"))
    keychain = Keychain(drawer)
    assert keychain.get(at("ftp://h/")).password == Secret("saved")
    keychain.add(at("ftp://h/"), with_password("typed"))
    found = keychain.get(at("ftp://h/a"))
    assert (found.username, found.password) == ("bob", Secret("typed"))
    assert drawer.asked == 1


def test_files_and_devices_of_this_host_bother_no_keyring() -> None:
    drawer = Drawer()
    keychain = Keychain(drawer)
    for text in ("/srv/a.img", "host_device:/dev/sda", "tftp://h/x", "nfs://h/e/"):
        keychain.get(at(text))
    assert drawer.asked == 0


def test_what_is_forgotten_is_gone_here_and_there() -> None:
    drawer = Drawer()
    keychain = Keychain(drawer)
    keychain.add(at("ftp://h/"), with_password("one"), save=True)
    keychain.keep(at("ftp://h/"))
    assert keychain.forget(at("ftp://h/"))
    assert not keychain.forget(at("ftp://h/"))
    assert keychain.get(at("ftp://h/")) == NO_CREDENTIALS


def test_a_host_key_is_vouched_for_once() -> None:
    keychain = Keychain()
    keychain.add(at("ssh://h/"), Credentials(host_key="SHA256:x"), vouch_for_host=True)
    assert keychain.is_to_keep(at("ssh://h/"))
    assert keychain.vouches_for_host(at("ssh://h/srv"))
    assert not keychain.vouches_for_host(at("ssh://h/srv"))


def test_a_passphrase_is_for_its_image_and_no_server_is_told_it() -> None:
    keychain = Keychain()
    given = Credentials(password=Secret("of the server"), image_passphrase=Secret("of the image"))
    keychain.add(at("http://h/a.luks"), given)
    assert keychain.passphrase(at("http://h/a.luks")) == Secret("of the image")
    assert keychain.passphrase(at("http://h/b.luks")) is None
    assert keychain.get(at("http://h/a.luks")) == with_password("of the server")


def test_a_passphrase_goes_to_the_keyring_only_by_wish_and_not_before_it_opened_the_image() -> None:
    drawer = Drawer()
    keychain = Keychain(drawer)
    place = at("/srv/a.luks")
    keychain.add(place, Credentials(image_passphrase=Secret("one")))
    assert not keychain.keep_passphrase(place)
    keychain.add(place, Credentials(image_passphrase=Secret("two")), save=True)
    assert not keychain.is_to_keep(place), "its server has nothing to keep"
    assert not keychain.keep(place)
    assert drawer.held == {}
    assert keychain.keep_passphrase(place)
    assert {str(server): saved for server, saved in drawer.held.items()} == {
        "image:/srv/a.luks": Credentials(image_passphrase=Secret("two"))
    }
    assert Keychain(drawer).passphrase(place) == Secret("two")
    assert keychain.forget(place)
    assert keychain.passphrase(place) is None
    assert Keychain(drawer).passphrase(place) is None

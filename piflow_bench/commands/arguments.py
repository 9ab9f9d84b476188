"""What several verbs say and read alike."""

from __future__ import annotations

from collections.abc import Sequence

SETTINGS = "key=value settings; `show` prints them all"


def only_out(settings: Sequence[str]) -> str | None:
    """The value of ``out=``, the one setting of some verbs."""
    from piflow_bench.config.paths import split_paths
    from piflow_bench.errors import UserError

    overrides, paths = split_paths(settings)
    for key in [o.partition("=")[0] for o in overrides] + list(paths):
        if key != "out":
            raise UserError(f"{key}=: this verb takes out=FOLDER alone")
    return paths.get("out")


def kind_and_name(
    verb: str, given: Sequence[str], kinds: Sequence[str]
) -> tuple[str, str, list[str]]:
    """Kind and name of the plugin that ``[KIND] NAME key=value ...`` says, and the settings.

    A name without a kind is that of a method, else of the one other plugin that is called so.

    Args:
        verb: for what is said of mistakes.
        given: the arguments.
        kinds: those that the verb takes.

    Raises:
        UserError: for a kind that is none of these, and a name of none or several of them.
    """
    from piflow_bench import registry
    from piflow_bench.errors import UserError, nearest
    from piflow_bench.file_plugins import places

    names, settings = [a for a in given if "=" not in a], [a for a in given if "=" in a]
    if len(names) == 2:
        kind, name = names
        if kind not in kinds:
            raise UserError(f"{verb} {kind} {name}: no such kind; {nearest(kind, list(kinds))}")
        return kind, name, settings
    if len(names) != 1:
        raise UserError(f"{verb} {' '.join(names)}: name one plugin, {verb} [KIND] NAME")
    (name,) = names
    paths = [a.removeprefix("plugins=") for a in settings if a.startswith("plugins=")]
    folders = places(paths[0]) if paths else []
    every = {kind: registry.find(kind, folders) for kind in kinds}
    found = [kind for kind in kinds if name in every[kind]]
    if len(found) > 1 and "method" not in found:
        raise UserError(
            f"{verb} {name}: {', '.join(found)} are called so; say which, as in "
            f"{verb} {found[0]} {name}"
        )
    if not found:
        known = sorted({other for plugins in every.values() for other in plugins})
        raise UserError(f"{verb} {name}: no plugin is called so; {nearest(name, known)}")
    return "method" if "method" in found else found[0], name, settings

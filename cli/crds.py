"""Print the CustomResourceDefinitions: `warmhook crds`."""

from __future__ import annotations

from pathlib import Path

import click

from cli.errors import Unusable


def crd_files() -> dict[str, str]:
    """File name to YAML; the same bytes each time."""
    # Imported here: building models costs more than the other commands need to start.
    import yaml

    from adapters.kubernetes.warmimage import warmimage_crd
    from adapters.kubernetes.warmpolicy import warmpolicy_crd

    return {
        f"{plural}.yaml": yaml.safe_dump(crd, sort_keys=False, width=100)
        for plural, crd in (("warmpolicies", warmpolicy_crd()), ("warmimages", warmimage_crd()))
    }


@click.command("crds")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    help="Write warmpolicies.yaml and warmimages.yaml to this folder, which is created where it is absent.",
)
def crds(output_dir: Path | None) -> None:
    """Print the CustomResourceDefinitions of WarmPolicy and WarmImage.

    To install them: warmhook crds | kubectl apply -f -
    """
    files = crd_files()
    if output_dir is None:
        click.echo("---\n".join(files.values()), nl=False)
        return
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (output_dir / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Unusable(f"--output-dir {output_dir}: {error.strerror}; name a folder that can be written") from None

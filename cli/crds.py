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
@click.option(
    "--reference", type=click.Path(path_type=Path), help="Write the reference of both kinds to this file, in Markdown."
)
def crds(output_dir: Path | None, reference: Path | None) -> None:
    """Print the CustomResourceDefinitions of WarmPolicy and WarmImage.

    To install them: warmhook crds | kubectl apply -f -
    """
    if output_dir is None and reference is None:
        click.echo("---\n".join(crd_files().values()), nl=False)
    if output_dir is not None:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            for name, text in crd_files().items():
                (output_dir / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise Unusable(f"--output-dir {output_dir}: {error.strerror}; name a folder that can be written") from None
    if reference is not None:
        from cli.api_reference import api_reference

        try:
            reference.write_text(api_reference(), encoding="utf-8")
        except OSError as error:
            raise Unusable(f"--reference {reference}: {error.strerror}; name a file that can be written") from None

"""Keep the images that the runtime listed last, and decide from their configurations which of them the node can run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from warmhook.platforms import Platform
from warmhook.ports import ImageConfig, RuntimeImage
from warmhook.presence import NO_CONFIG, NO_DIGEST, Images, Unusable, images_by_name, unusable


class RuntimeImages:
    """The images of one runtime."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.listed: Images | None = None
        """The last list, by name; `None` while the runtime does not answer."""
        self.all: tuple[RuntimeImage, ...] = ()
        """The images of the last answer, also those without a name."""
        self._problems: dict[str, Unusable | None] = {}
        """By image ID, of listed images whose configuration was read; it never changes under one ID."""
        self._unreadable: dict[str, None] = {}
        """IDs of images whose configuration the runtime did not return, in the order to read them again."""

    def unread(self, images: Iterable[RuntimeImage], names: Collection[str], *, again: bool) -> list[str]:
        """IDs of `images` under `names` whose configuration is not known, in the order to read.

        `again`: also those that the runtime did not return before, after the others.
        """
        ids = self._unknown(images_by_name(images), names)
        unreadable = [image_id for image_id in self._unreadable if image_id in ids]
        return sorted(ids - self._unreadable.keys()) + (unreadable if again else [])

    def is_read(self, names: Collection[str]) -> bool:
        """Whether each listed image under `names` has a configuration, or the runtime did not return one."""
        return self._unknown(self.listed or {}, names) <= self._unreadable.keys()

    def replace(self, images: Iterable[RuntimeImage], configs: Mapping[str, ImageConfig | None]) -> Images:
        """Take a new list, and configurations by ID; returns the list. The first without one is the next to read."""
        self.all = tuple(images)
        self.listed = images_by_name(self.all)
        ids = {image.id for image in self.listed.values()}
        read = {image_id: config for image_id, config in configs.items() if config is not None}
        problems = self._problems | {image_id: unusable(config, self._platform) for image_id, config in read.items()}
        self._problems = {image_id: problem for image_id, problem in problems.items() if image_id in ids}
        unreadable = [image_id for image_id in self._unreadable if image_id not in configs and image_id in ids]
        self._unreadable = dict.fromkeys(image_id for image_id in (*unreadable, *configs) if image_id not in read)
        return self.listed

    def usable(self) -> set[str]:
        """IDs of the images that the node can run."""
        return {image_id for image_id, problem in self._problems.items() if problem is None}

    def problem(self, name: str) -> Unusable | None:
        """Why the node cannot run the image listed under this name; `None` if it can, or if none is listed."""
        image = (self.listed or {}).get(name)
        if image is None:
            return None
        if image.id in self._unreadable:
            return NO_CONFIG
        return self._problems.get(image.id) or (None if image.digests else NO_DIGEST)

    def _unknown(self, images: Images, names: Collection[str]) -> set[str]:
        return {images[name].id for name in names if name in images} - self._problems.keys()

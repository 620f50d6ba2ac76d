"""Watch the space on disks."""

import asyncio
import shutil


async def check(folders: list[str], least_percent: float = 10) -> dict[str, float]:
    """Fail if the disk of one of `folders` has less than `least_percent` free; return what each has.

    A network disk may take its time to answer: the folders are looked at side by side, in threads.
    """
    found = await asyncio.gather(*(asyncio.to_thread(shutil.disk_usage, folder) for folder in folders))
    free = {folder: round(100 * usage.free / usage.total, 1) for folder, usage in zip(folders, found, strict=True)}
    scarce = [f"{folder} has {percent}% free" for folder, percent in free.items() if percent < least_percent]
    if scarce:
        raise RuntimeError(f"{', '.join(scarce)}; expected {least_percent}%")
    return free

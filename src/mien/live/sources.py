"""Live sources: what a user names, as a device or address that PyAV opens on this platform."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mien.errors import ConfigError, MediaError
from mien.media.container import check_file

Kind = Literal["camera", "screen", "stream", "device", "file"]

#: Protocols of network streams. Files are not among them: a playlist from a server must not name files of the user.
PROTOCOLS = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp", "tcp")
_WHITELIST = "http,https,httpproxy,rtsp,rtmp,rtmps,rtmpt,srt,udp,rtp,srtp,tcp,tls,crypto,data,hls"
#: Name of the screen as a source, and of microphones that need no name.
SCREEN, DEFAULT, NONE = "screen", "default", "none"
_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


@dataclass(frozen=True, slots=True)
class Address:
    """What `av.open` gets: a name, a format (None: recognised from the data) and options."""

    name: str
    format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """A live source.

    kind: what it is. title: for people. address: of the pictures, and of the sound unless `microphone` is given; for a
    file, its path. microphone: a second device for the sound. has_microphone: a microphone is opened, as that device or
    by `address`.
    """

    kind: Kind
    title: str
    address: Address
    microphone: Address | None = None
    has_microphone: bool = False

    @property
    def media(self) -> str:
        """The path of a file, and "" for what cannot be opened again."""
        return self.address.name if self.kind == "file" else ""


def find_source(
    text: str,
    *,
    microphone: str = DEFAULT,
    size: str | None = None,
    rate: float | None = None,
    format: str | None = None,
    pictures: bool = True,
    platform: str = sys.platform,
) -> Source:
    """The source that a user names.

    Args:
        text: the number of a camera (`0`), `screen` or `screen:1`, the address of a stream (`rtsp://...`), a file, or
            the name of a device.
        microphone: of a camera or the screen: `default`, `none`, or the name of a device.
        size: of the pictures of a camera, such as `640x480`; None: that of the device. rate: frames per second.
        format: FFmpeg's name of an input device or format, for `text` as it is.
        pictures: whether pictures are read. Otherwise the address of a camera names its microphone alone, where one
            address opens both (macOS, Windows).
        platform: as `sys.platform`.

    Raises:
        MediaError: the file is missing or not readable. ConfigError: the platform has no such device, or a setting
            cannot be used.
    """
    if size is not None and not re.fullmatch(r"[1-9]\d{1,4}x[1-9]\d{1,4}", size):
        raise ConfigError(
            f"--size {size}: not a size in pixels",
            follows="Nothing was opened.",
            remedy="Write width and height, such as --size 640x480.",
        )
    options = {} if size is None else {"video_size": size}
    if rate is not None:
        options["framerate"] = f"{rate:g}"
    if format is not None:
        return Source("device", f"{format} {text}", Address(text, format, options))
    if text.isdigit() or text.startswith("/dev/video"):
        return _camera(text, microphone, options, platform, pictures)
    if text == SCREEN or re.fullmatch(rf"{SCREEN}:\d+", text):
        number = int(text.partition(":")[2] or 0)
        return _screen(number, microphone, options, platform, pictures)
    if (protocol := text.partition("://")[0].lower()) != text.lower():
        found = _network(text, protocol)
    else:
        path = check_file(Path(text))
        found = Source("file", path.name, Address(str(path)))
    if options:
        raise ConfigError(
            f"--size and --rate are for cameras, and {found.title} is none",
            follows="Nothing was opened.",
            remedy="Omit them: its pictures keep their size and their rate.",
        )
    return found


def _camera(text: str, microphone: str, options: dict[str, str], platform: str, pictures: bool) -> Source:
    name = _device_format(platform)
    title = f"camera {text}"
    if name == "avfoundation":
        # AVFoundation has no rate of its own: without this one it asks for 29.97, which most cameras refuse.
        sound, shown = _mac_microphone(microphone), {"framerate": "30"} | options
        address = Address((text if pictures else "") + sound, name, shown if pictures else {})
        return Source("camera", title, address, has_microphone=bool(sound))
    if name == "dshow":
        video = (_windows_name(int(text), "video") if text.isdigit() else text) if pictures else ""
        heard = _windows_name(0, "audio", required=not pictures) if microphone == DEFAULT else microphone
        parts = {"video": video, "audio": "" if heard == NONE else heard}
        address = Address(":".join(f"{k}={v}" for k, v in parts.items() if v), name, options if pictures else {})
        return Source("camera", video or title, address, has_microphone=bool(parts["audio"]))
    path = f"/dev/video{text}" if text.isdigit() else text
    sound_device = _linux_microphone(microphone)
    return Source("camera", path, Address(path, name, options), sound_device, sound_device is not None)


def _screen(number: int, microphone: str, options: dict[str, str], platform: str, pictures: bool) -> Source:
    title, rate = f"screen {number}", {"framerate": "15"}
    if _device_format(platform) == "avfoundation":
        sound = _mac_microphone(microphone)
        address = Address((f"Capture screen {number}" if pictures else "") + sound, "avfoundation", rate | options)
        return Source("screen", title, address, has_microphone=bool(sound))
    if _device_format(platform) == "dshow":
        return Source("screen", title, Address("desktop", "gdigrab", rate | options))
    display = os.environ.get("DISPLAY")
    if not display:
        raise ConfigError(
            "the screen cannot be captured: there is no X11 display (DISPLAY is not set)",
            follows="Nothing was opened.",
            remedy="Start the command in an X11 session. Wayland does not let programs read the screen.",
        )
    name = f"{display.partition('.')[0]}.{number}"
    sound_device = _linux_microphone(microphone)
    return Source("screen", title, Address(name, "x11grab", rate | options), sound_device, sound_device is not None)


def _network(text: str, protocol: str) -> Source:
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"{hide_password(text)}: mien reads no {protocol} streams",
            follows="Nothing was opened.",
            remedy=f"Use one of {', '.join(PROTOCOLS)}, or the name of a file without a protocol.",
        )
    options = {"protocol_whitelist": _WHITELIST}
    if protocol.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # through firewalls, and without lost packets
    return Source("stream", hide_password(text), Address(text, None, options))


def hide_password(address: str) -> str:
    """An address without the name and password of a user, for the screen and for messages."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", address)


def _mac_microphone(name: str) -> str:
    """The microphone as a part of an address of AVFoundation."""
    return {DEFAULT: ":default", NONE: ""}.get(name, f":{name}")


def _linux_microphone(name: str) -> Address | None:
    return None if name == NONE else Address(name, "alsa")


def _device_format(platform: str) -> str:
    """FFmpeg's name of the cameras of a platform. Raises ConfigError for another platform."""
    if platform not in _CAMERAS:
        raise ConfigError(
            f"cameras cannot be opened on the platform {platform!r}",
            follows="Nothing was opened.",
            remedy="Name the device and its FFmpeg format: mien live DEVICE --format NAME.",
        )
    return _CAMERAS[platform]


def _windows_name(number: int, medium: str, *, required: bool = True) -> str:
    """Name of the device with a number on Windows, where devices have no numbers; "" if there is none."""
    names = [device.name for device in devices("dshow") if medium in device.media]
    if number < len(names):
        return names[number]
    if not required:
        return ""
    kind = "camera" if medium == "video" else "microphone"
    raise MediaError(
        f"there is no {kind} {number}: {len(names)} were found" + (f" ({', '.join(names)})" if names else ""),
        follows="Nothing was opened.",
        remedy="Connect it, or let other programs release it; `mien live --devices` lists what is here.",
    )


@dataclass(frozen=True, slots=True)
class Device:
    """A camera or microphone. name: for `find_source`. media: `video`, `audio` or both."""

    name: str
    description: str
    media: tuple[str, ...]


def devices(format: str | None = None, *, platform: str = sys.platform) -> list[Device]:
    """The cameras and microphones of this computer. format: FFmpeg's name of the devices; None: the platform's."""
    import av

    formats = [format] if format else [_device_format(platform), *(["alsa"] if platform == "linux" else [])]
    found = []
    for name in formats:
        try:
            listed = av.enumerate_input_devices(name)
        except (av.FFmpegError, ValueError, NotImplementedError):
            continue
        for device in listed:
            media = tuple(device.media_types) or (("audio",) if name == "alsa" else ("video",))
            found.append(Device(device.name, device.description, media))
    return found

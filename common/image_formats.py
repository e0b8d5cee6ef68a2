"""Formats of image files: which are read, which are written and how, and how others are told."""

from typing import Any

from PIL import Image

Image.init()
# Formats that Pillow opens and that are not read here: they need other programs, are not pictures
# of pixels, or what Pillow reads of them is a smaller picture or has no agreed range of values.
_OTHER = {"BUFR": "BUFR", "EPS": "PostScript", "FITS": "FITS", "GRIB": "GRIB", "HDF5": "HDF5",
          "IPTC": "IPTC", "MPEG": "MPEG video", "PALM": "Palm", "PCD": "Photo CD", "PDF": "PDF",
          "WMF": "Windows metafile"}
# What is read: formats as Pillow names them, and the suffixes of their files.
FORMATS = tuple(sorted({*Image.OPEN} & {*Image.registered_extensions().values()} - {*_OTHER}))
SUFFIXES = tuple(suffix for suffix, name in Image.registered_extensions().items()
                 if name in (*FORMATS, "MPO"))  # which opens as JPEG
CAMERA = "camera raw"
# Known formats of pictures that are not read, by suffix.
NOT_READ = {
    **{suffix: _OTHER[name] for suffix, name in Image.registered_extensions().items()
       if name in _OTHER},
    **dict.fromkeys((".heic", ".heif", ".heics", ".heifs", ".hif", ".avci"), "HEIF"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".raf",
                     ".orf", ".rw2", ".raw", ".pef", ".srw", ".x3f", ".3fr", ".fff", ".iiq", ".erf",
                     ".kdc", ".dcr", ".mrw", ".mef", ".mos", ".rwl", ".gpr"), CAMERA),
    ".jxl": "JPEG XL", ".jxr": "JPEG XR", ".wdp": "JPEG XR", ".hdp": "JPEG XR", ".jls": "JPEG-LS",
    ".jph": "HTJ2K", ".jhc": "HTJ2K", ".svg": "SVG", ".svgz": "SVG", ".djvu": "DjVu",
    ".djv": "DjVu", ".mng": "MNG", ".jng": "JNG", ".dpx": "DPX", ".cin": "Cineon",
    ".hdr": "Radiance HDR", ".exr": "OpenEXR", ".dcm": "DICOM", ".psb": "Photoshop, large",
    ".xcf": "GIMP", ".kra": "Krita", ".ai": "Illustrator", ".bpg": "BPG", ".flif": "FLIF",
    ".pam": "PAM",
}

# Formats that are written: the suffixes, the longest side that they can hold, and how.
OPTIONS: dict[str, tuple[int | None, dict[str, Any]]] = {
    "PNG": (None, {}),
    "JPEG": (65500, dict(quality=95, subsampling="4:4:4")),
    "WEBP": (16383, dict(lossless=True)),
    "TIFF": (None, {}), "BMP": (None, {}), "DIB": (None, {}), "PPM": (None, {}),
    "JPEG2000": (None, {}), "QOI": (None, {}), "TGA": (65535, {}), "PCX": (65534, {}),
    "SGI": (65535, {}), "GIF": (65535, {}),
    "AVIF": (32768, dict(quality=95, subsampling="4:4:4")),
}
WRITTEN = tuple(suffix for suffix, name in Image.registered_extensions().items()
                if name in OPTIONS and suffix not in (".pbm", ".pgm", ".pfm", ".bw", ".rgba"))

# How files of formats that are not read begin.
BEGINNINGS = {
    b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL", b"II\xbc": "JPEG XR", b"%PDF": "PDF",
    b"%!PS": "PostScript", b"v/1\x01": "OpenEXR", b"#?R": "Radiance HDR", b"gimp xcf": "GIMP",
    b"AT&TFORM": "DjVu", b"FUJIFILMCCD-RAW": CAMERA, b"8BPS\0\2": "Photoshop, large"}
BRANDS = {**dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
                           "HEIF"), b"crx ": CAMERA}

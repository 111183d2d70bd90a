"""Camera images without a display: EGL, else OSMesa."""

from __future__ import annotations

import ctypes.util
import os
import weakref
from typing import Any

import mujoco
import numpy as np

from diwa_data.errors import DiwaError

CURE = "sudo apt install libegl1 libgl1-mesa-dri"


class Cameras:
    """Renders named cameras of a model at one size."""

    def __init__(self, model: mujoco.MjModel, size: tuple[int, int], plain: bool = True):
        """`size` is height, width in pixels; `plain` pictures have flat light, no shadows and no sky.

        Raises `DiwaError` when this machine cannot render.
        """
        self._model = model
        self._height, self._width = size
        self._gl = create_context(self._width, self._height)
        self._gl.make_current()
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 10)
        for flag in (
            mujoco.mjtRndFlag.mjRND_SHADOW,
            mujoco.mjtRndFlag.mjRND_REFLECTION,
            mujoco.mjtRndFlag.mjRND_SKYBOX,
        ):
            self._scene.flags[flag] = not plain
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_resizeOffscreen(self._width, self._height, self._context)  # clearing part of a larger one is slow
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._viewport = mujoco.MjrRect(0, 0, self._width, self._height)
        self._pixels = np.empty((self._height, self._width, 3), np.uint8)
        self._free = weakref.finalize(self, _free, self._gl, self._context)
        self._free.atexit = False  # the driver may be gone by then

    def render(self, data: mujoco.MjData, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Camera name -> new image (H, W, 3) uint8, top row first."""
        self._gl.make_current()
        images = {}
        for i, name in enumerate(names):
            self._camera.fixedcamid = self._model.camera(name).id
            if i == 0:
                everything = mujoco.mjtCatBit.mjCAT_ALL.value
                mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
            else:
                mujoco.mjv_updateCamera(self._model, data, self._camera, self._scene)
            mujoco.mjr_render(self._viewport, self._scene, self._context)
            mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
            images[name] = self._pixels[::-1].copy()
        return images

    def close(self) -> None:
        """Free the OpenGL context; rendering ends."""
        self._free()


def _free(gl: Any, context: mujoco.MjrContext) -> None:
    gl.make_current()  # what is freed belongs to the current context, which may be another camera pair's
    context.free()
    gl.free()


def create_context(width: int, height: int) -> Any:
    """An OpenGL context with `make_current` and `free`: what MUJOCO_GL names, else EGL, else OSMesa."""
    # llvmpipe draws a small image fastest in the thread that asks; the processes of a recording share the cores
    os.environ.setdefault("LP_NUM_THREADS", "0")
    backend = os.environ.get("MUJOCO_GL", "").lower() or _available_backend()
    try:
        if backend == "egl":
            from mujoco.egl import GLContext
        elif backend == "osmesa":
            from mujoco.osmesa import GLContext
        else:
            from mujoco import GLContext
        return GLContext(width, height)
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        hint = "unset MUJOCO_GL and PYOPENGL_PLATFORM, or " if "MUJOCO_GL" in os.environ else ""
        raise DiwaError(f"no off-screen rendering with {backend} ({error}): {hint}{CURE}") from error


def _available_backend() -> str:
    """`egl` or `osmesa`. PyOpenGL binds to one per process, so this looks without importing it."""
    if _egl_devices() > 0:
        return "egl"
    if ctypes.util.find_library("OSMesa"):
        return "osmesa"
    raise DiwaError(f"cannot render images: neither EGL nor OSMesa is usable on this machine; {CURE}")


def _egl_devices() -> int:
    """How many devices EGL can render on without a display; 0 without EGL."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return 0
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    if not address:
        return 0
    count = ctypes.c_int(0)
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))(address)
    return count.value if query(0, None, ctypes.byref(count)) else 0

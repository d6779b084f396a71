"""Light for the content picture: sky, surfaces, water and the film. Colours are linear RGB until `develop`."""

import numpy as np

from examples.noise import fractal, gaussian_blur, mix, perlin, smoothstep
from examples.render import NOTHING, Eye, Scene
from examples.solids import COBBLES, GLASS, GROUND, LEAVES, PLASTER, STONE, TILES

TO_SUN = np.array([-0.80, 0.29, -0.56])
SUNLIGHT = np.array([3.0, 1.8, 0.86], np.float32)
SKYLIGHT = np.array([0.20, 0.28, 0.44], np.float32)
BOUNCE = np.array([0.15, 0.11, 0.07], np.float32)
RIDGES = [  # far hills, the farthest first: height and roughness as slopes, colour, share of haze
    (0.068, 0.050, (0.10, 0.11, 0.10), 0.80),
    (0.042, 0.042, (0.09, 0.10, 0.06), 0.62),
    (0.018, 0.034, (0.10, 0.11, 0.04), 0.40),
]


def puffs(x, y, octaves, seed):
    """Sum of folded noise |perlin|: round bumps with creases between them, as a heap cloud has."""
    total, amplitude = 0.0, 1.0
    for octave in range(octaves):
        total = total + amplitude * np.abs(perlin(x, y, seed + octave))
        x, y, amplitude = 1.64 * x - 1.28 * y + 5.2, 1.28 * x + 1.64 * y + 1.7, 0.52 * amplitude
    return total


def cloud_layers(x, y):
    """Clouds in direction (x, y, 1), y > 0: (cover, sunlit share) of a high veil, then of heaped clouds below it."""
    depth = 1 / (y + 0.16)
    u, v = 1.3 * x * depth + 3.7, 2.3 * depth + 0.4
    bend = 0.5 * fractal(0.9 * u + 5, 0.9 * v, 3, seed=41)
    streaks = fractal(0.75 * u + bend, 0.75 * v + bend, 6, gain=0.55, seed=11)
    yield 0.5 * smoothstep(0.05, 0.5, streaks) * smoothstep(0.02, 0.2, y), 0.75 + 0.3 * streaks

    # Perspective again, gentler, so that the heaps stand up.
    depth = 1 / (y + 0.42)
    u, v = 1.9 * x * depth, 3.1 * depth

    def density(du, dv):
        mass = fractal(u + du + 4.35, 1.25 * (v + dv) + 0.9, 3, gain=0.45, seed=31)
        return mass + 0.62 * puffs(2.2 * (u + du), 2.6 * (v + dv), 6, 51)

    here = density(0, 0)
    cover = smoothstep(0.40, 0.55, here)
    coarse = here - density(-0.16, -0.10)
    fine = here - density(-0.05, -0.035)
    lit = np.clip(0.50 + 0.75 * coarse + 0.9 * fine - 0.25 * smoothstep(0.5, 1.0, here), 0, 1)
    yield cover * smoothstep(0.0, 0.05, y), lit


def hazy(x: np.ndarray) -> np.ndarray:
    """The colour that distance fades to: warmer towards the sun, on the left."""
    warm = smoothstep(0.75, -0.6, x)[..., None]
    return mix(np.array([0.38, 0.38, 0.46]), np.array([1.12, 0.72, 0.36]), warm).astype(np.float32)


def sky(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Radiance from direction (x, y, 1): gradient, clouds and three ridges of far hills."""
    up = np.clip(y, 0, None)
    zenith = mix(np.array([0.035, 0.135, 0.33]), np.array([0.10, 0.23, 0.40]), smoothstep(0.6, -0.6, x)[..., None])
    colour = mix(hazy(x) * 1.15, zenith, (1 - np.exp(-up / 0.15))[..., None])
    low = np.exp(-up / 0.14)[..., None]
    bright = mix(np.array([1.60, 1.28, 0.96]), np.array([1.60, 1.02, 0.55]), low)
    dark = mix(np.array([0.17, 0.20, 0.31]), np.array([0.42, 0.34, 0.36]), low)
    for cover, lit in cloud_layers(x, up):
        colour = mix(colour, mix(dark, bright, lit[..., None]), 0.95 * cover[..., None])
    for ridge, (base, rough, tint, haze) in enumerate(RIDGES):
        crest = base + rough * fractal(4.2 * x + 3 * ridge, 0 * x, 5, seed=60 + ridge) - 0.02 * ridge * x
        slope = fractal(9 * x + 5 * ridge, 16 * y + 0.8 * x, 5, gain=0.6, seed=70 + ridge)
        lit_hill = np.array(tint) * (0.9 + 1.5 * np.clip(slope, -0.4, 1))[..., None] * np.array([1.35, 1.05, 0.7])
        hill = mix(lit_hill, hazy(x) * 0.82, haze)
        colour = mix(colour, hill, smoothstep(0.0, 0.0016, crest - y)[..., None])
    return colour.astype(np.float32)


def texture(place: np.ndarray, normal: np.ndarray, material: np.ndarray) -> np.ndarray:
    """How much brighter or darker than its plain colour each surface is, by its material; (n, 1)."""
    across = normal[:, 2] * place[:, 0] - normal[:, 0] * place[:, 2]
    height = place[:, 1]
    factor = np.ones(len(place), np.float32)

    def on(*kinds):
        return np.isin(material, kinds)

    at = on(PLASTER)
    stains = fractal(0.5 * across[at], 0.18 * height[at], 4, gain=0.6, seed=5)
    factor[at] = 0.86 + 0.42 * stains + 0.10 * perlin(6 * across[at], 6 * height[at], 6)
    at = on(STONE)
    course = np.floor(height[at] / 0.5)
    block = np.floor(across[at] / 0.95 + 0.5 * (course % 2))
    tone = perlin(block * 0.83 + 0.5, course * 0.77 + 0.3, 7)
    wet = 0.45 * smoothstep(0.9, 0.1, height[at])
    factor[at] = (1 + 0.30 * tone + 0.35 * fractal(across[at], height[at], 4, seed=8)) * (1 - wet)
    at = on(TILES)
    row = height[at] / 0.26
    age = 0.5 * perlin(1.7 * across[at], 1.1 * row, 9) + 0.3 * fractal(0.3 * across[at], 0.3 * height[at], 3, seed=10)
    factor[at] = (0.80 + 0.34 * (row % 1)) * (1 + age)
    at = on(GROUND)
    meadow = fractal(0.22 * place[at, 0], 0.22 * place[at, 2], 5, gain=0.6, seed=12)
    # Vines in rows, plot by plot.
    plot = perlin(place[at, 0] / 34 + 0.37, place[at, 2] / 30 + 0.11, 14)
    rows = np.sin((place[at, 0] * 0.5 - place[at, 2] * np.where(plot > 0.1, 0.9, -0.35)) * 2.2)
    factor[at] = 1 + 0.7 * meadow + 0.55 * rows * smoothstep(0.02, 0.06, np.abs(plot)) + 0.9 * plot
    at = on(COBBLES)
    factor[at] = 1 + 0.5 * fractal(1.3 * place[at, 0], 1.3 * place[at, 2], 4, gain=0.65, seed=13)
    return factor[:, None]


class Shadows:
    """How much of the sun reaches a point: soft-edged look-ups in the z-buffer drawn from the sun."""

    def __init__(self, sun, nearness):
        self.sun, self.nearness = sun, nearness

    def __call__(self, place, normal, thin):
        """`place`, `normal` (n, 3); `thin` marks leaves, which let some light through. Returns (n,), 0 ... 1."""
        lifted = self.sun.project(place + 0.12 * normal + 0.05 * self.sun.towards)
        bias = np.where(thin, 0.5, 0.12)
        light = np.zeros(len(place), np.float32)
        taps = [(0, 0), (1.3, 0.4), (-1.3, -0.4), (0.4, -1.3), (-0.4, 1.3)]
        for dx, dy in taps:
            column = np.clip(lifted[:, 0] + dx, 0, self.sun.width - 1).astype(int)
            row = np.clip(lifted[:, 1] + dy, 0, self.sun.height - 1).astype(int)
            light += lifted[:, 2] + bias >= self.nearness[row, column]
        return light / len(taps)


def shade(scene: Scene, eye: Eye, nearness: np.ndarray, index: np.ndarray, shadows: Shadows) -> np.ndarray:
    """Radiance (height, width, 3) of what `eye` sees: surfaces in sun, skylight and haze, else the sky."""
    x, y = eye.rays()
    image = np.zeros((eye.height, eye.width, 3), np.float32)
    seen = index != NOTHING
    up = -y if eye.mirrored else y
    open_sky = ~seen & (up > -0.002)
    image[open_sky] = sky(x[open_sky], up[open_sky])
    primitive, place, x = index[seen], eye.locate(nearness)[seen].astype(np.float32), x[seen]
    normal, colour, material = scene.normal[primitive], scene.colour[primitive], scene.material[primitive]
    towards_eye = eye.position * (1, -1 if eye.mirrored else 1, 1) - place
    distance = np.linalg.norm(towards_eye, axis=1, keepdims=True)
    leaf = material == LEAVES
    facing = np.sum(normal * towards_eye, axis=1, keepdims=True)
    normal = np.where((facing < 0) & ~leaf[:, None], -normal, normal)

    incidence = normal @ shadows.sun.towards.astype(np.float32)
    incidence = np.where(leaf, 0.30 + 0.70 * incidence, incidence)
    direct = (np.clip(incidence, 0, None) * shadows(place, normal, leaf))[:, None]
    hollow = occlusion(nearness)[seen][:, None]
    ambient = SKYLIGHT * (0.62 + 0.38 * normal[:, 1:2]) + BOUNCE * (0.55 - 0.45 * normal[:, 1:2])
    albedo = colour * texture(place, normal, material)
    light = direct * SUNLIGHT + hollow * ambient
    radiance = albedo * light

    # A pane shows a piece of sky: brighter where it happens to lean upwards.
    glass = material == GLASS
    lean = perlin(0.9 * place[glass, 0] + 0.4 * place[glass, 2], 0.8 * place[glass, 1], 21)
    pane = 0.7 * smoothstep(-0.25, 0.55, lean)[:, None]
    radiance[glass] = mix(np.array([0.02, 0.025, 0.035]), np.array([0.22, 0.25, 0.31]), pane) + 0.05 * direct[glass]
    veil = 1 - np.exp(-np.clip(distance - 50, 0, None) / 1100)
    image[seen] = mix(radiance, hazy(x), veil)
    return image


def occlusion(nearness: np.ndarray) -> np.ndarray:
    """Corners and undersides get less skylight: compare each depth with its surroundings' (Luft et al. 2006)."""
    depth = 1 / np.maximum(nearness, 1 / 500)
    unit = nearness.shape[1] / 768
    hollow = np.ones_like(depth)
    for sigma, strength in ((2 * unit, 0.35), (7 * unit, 0.35)):
        behind = np.clip((depth - gaussian_blur(depth, sigma)) / (0.03 * depth), 0, 1)
        hollow *= 1 - strength * behind
    return hollow


def waves(x: np.ndarray, z: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (along x, along z) of the water at (x, z); waves finer than a pixel's `spread` in z are left out."""
    slope_x, slope_z = np.zeros_like(x), np.zeros_like(x)
    for number, (length, steepness) in enumerate([(9.0, 0.010), (3.6, 0.014), (1.5, 0.020), (0.6, 0.026)]):
        kept = steepness * np.exp(-0.5 * (spread / length) ** 2)
        u, v = x / (2.2 * length), z / length
        crossing = perlin(u + 0.3 * v, v, 80 + number) + perlin(1.7 * u - 0.4 * v, 1.3 * v, 90 + number)
        slope_z = slope_z + kept * crossing
        slope_x = slope_x + 0.35 * kept * perlin(u, 1.1 * v + 7, 85 + number)
    return slope_x, slope_z


def water(eye: Eye, mirror_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radiance of the river along every ray that points down, and its distance in z.

    It shows the mirrored world shaken by waves, over deep water.
    """
    x, y = eye.rays()
    t = eye.position[1] / np.maximum(-y, 1e-4)
    place_x, place_z = eye.position[0] + x * t, eye.position[2] + t
    footprint = t * t / (eye.focal * eye.position[1])
    slope_x, slope_z = waves(place_x, place_z, footprint)
    row, column = np.mgrid[: eye.height, : eye.width].astype(np.float32)
    calm = 0.45 + 0.55 * smoothstep(-0.25, 0.3, fractal(place_x / 34, place_z / 16, 3, seed=95))
    reflected = 0.0
    shifts = [-1.2, -0.4, 0.4, 1.2]
    for shift in shifts:
        # Waves too fine to draw still smear the mirror image up and down.
        tilt = calm * (slope_z + 0.006 * shift)
        at_row = np.clip(row + 2 * eye.focal * tilt, 0, eye.height - 1).astype(int)
        at_column = np.clip(column + 2 * eye.focal * calm * slope_x, 0, eye.width - 1).astype(int)
        reflected = reflected + mirror_image[at_row, at_column] / len(shifts)
    grazing = np.clip(1 - (-y) / np.sqrt(1 + x * x + y * y) - 2.5 * slope_z, 0, 1)
    mirror = np.clip(0.14 + 0.86 * grazing**5, 0, 0.96)[..., None]
    deep = np.array([0.012, 0.062, 0.078]) + 0.04 * hazy(x)
    return mix(deep, reflected, mirror), t


def develop(image: np.ndarray, rng: np.random.Generator, grain: float = 0.004) -> np.ndarray:
    """From radiance to a photograph (uint8): glow, film curve, a vignette, a little grain."""
    height, width = image.shape[:2]
    glow = gaussian_blur(np.clip(image - 0.9, 0, 3), 0.012 * width)
    image = image + 0.35 * glow
    row, column = np.mgrid[:height, :width]
    radius = ((column / width - 0.5) ** 2 + (row / height - 0.5) ** 2)[..., None]
    image = np.clip(image * (1 - 0.5 * radius) * 0.72, 0, None)
    # Film curve with toe and shoulder: Narkowicz's fit of ACES (2016). Then the gamma of a screen.
    image = image * (2.51 * image + 0.03) / (image * (2.43 * image + 0.59) + 0.14)
    image = np.clip(image, 0, 1) ** (1 / 2.2)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + 1.12 * (image - grey)
    image = image + grain * gaussian_blur(rng.normal(size=(height, width, 1)).astype(np.float32), 0.6) * 1.8
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)

"""Models of CompressAI before and after their import: `python -m benchmarks.imports`.

CompressAI, in its own environment, makes a model, saves it, and computes with it; `python -m
convert` imports the file, and the same is computed here. Both see one photograph, cut to an odd
size and padded by repeating its last pixels to multiples of 64, for the padding of the two differs.

    random weights   every parameter perturbed; y_hat as its `compress` rounds it
    --minutes        and mbt2018-mean with N = 64, M = 96 trained for so long by the loop of its
                     examples/train.py (Adam 1e-4, 16 crops of 256, lambda 0.013, no validation) on
                     the data set `--train`, then rate and PSNR of both on `--dataset`

Differences are the largest, relative to the largest value: of y and z, of the parameters of p(y)
(those of the hyper-synthesis, or for models with a context of the entropy parameters), of the
decoded image, and of the information content of each element below 20 bits, where ours ends.
"index" is the share of elements whose table entry in the integer networks is that of the float
ones; "integers" what these networks cost in rate. "bytes" is our file beside its information
content. "y_hat" is the share of elements that decode to what CompressAI decodes.
"""

import argparse
import statistics
import sys
import tempfile

import numpy as np

from benchmarks import side_by_side

MODELS = {
    "bmshj2018-factorized": "FactorizedPrior",
    "bmshj2018-hyperprior": "ScaleHyperprior",
    "mbt2018-mean": "MeanScaleHyperprior",
    "mbt2018": "JointAutoregressiveHierarchicalPriors",
    "cheng2020-anchor": "Cheng2020Anchor",
    "cheng2020-attn": "Cheng2020Attention",
}
DIFFERENCES = ("y", "z", "parameters", "x_hat", "z_bits", "y_bits")
LAMBDA = 0.013


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--channels", type=int, nargs=2, default=(32, 48), metavar=("N", "M"),
                        help="widths; cheng2020 has N only (default: 32 48)")
    parser.add_argument("--image", help="by default coffee.png of the data set `photos`")
    parser.add_argument("--minutes", type=float, default=0.0, help="train one too, for so long")
    parser.add_argument("--train", default="photos/train", help="data set to train it on")
    parser.add_argument("--dataset", default="kodak", help="data set to compare it on")
    side_by_side.add_arguments(parser)
    args = parser.parse_args()
    side_by_side.run(args, measure, ours=ours, CompressAI=compressai)


def measure(args: argparse.Namespace) -> None:
    """Compares; prints tables and writes imports.json to `side_by_side.RESULTS`."""
    from benchmarks.coding import read_image
    from common import data, files, result_tables

    with (tempfile.TemporaryDirectory() as folder,
          side_by_side.workers("benchmarks.imports", sys.argv[1:]) as (us, them)):
        photo = read_image(args.image)[:157, :205]
        rows = []
        for name in MODELS:
            theirs = them.call("make", name=name, folder=folder, photo=photo.tolist())
            rows.append({"model": name, **us.call("compare", **theirs)})
        shown = [{key: f"{value:.1e}" if key in DIFFERENCES else value
                  for key, value in row.items()} for row in rows]
        print(result_tables.render(shown, rows[0].keys()))
        trained = []
        if args.minutes:
            pictures = [str(source.path) for source in data.find(args.train)]
            path = them.call("train", pictures=pictures, folder=folder)
            us.call("load", path=path)
            for source in data.find(args.dataset):
                np.save(f"{folder}/picture.npy", source.read())
                both = {worker.side: worker.call("evaluate", path=f"{folder}/picture.npy")
                        for worker in (us, them)}
                trained.append({"image": source.name, **{
                    f"{side} {key}": value for side, of_side in both.items()
                    for key, value in of_side.items()}})
            mean = {key: statistics.mean(row[key] for row in trained)
                    for key in trained[0] if key != "image"}
            print(result_tables.render([{"image": "mean", **mean}], trained[0].keys()))
        facts = side_by_side.facts([us, them], args)
    side_by_side.RESULTS.mkdir(parents=True, exist_ok=True)
    files.write_json(side_by_side.RESULTS / "imports.json",
                     {**facts, "rows": rows, "trained": trained})


def _padded(image):
    """[H, W, 3] with its last pixels repeated up to multiples of 64."""
    height, width, _ = image.shape
    return np.pad(image, ((0, -height % 64), (0, -width % 64), (0, 0)), "edge")


# --- CompressAI -------------------------------------------------------------------------------


def compressai(args: argparse.Namespace) -> side_by_side.Methods:
    """The worker that makes models."""
    torch = side_by_side.torch(args.threads)
    from compressai import models

    state = {}

    def batch(image):
        x = torch.from_numpy(np.ascontiguousarray(_padded(image))).permute(2, 0, 1)[None]
        return x.float() / 255

    def construct(name, n, m):
        cls = getattr(models, MODELS[name])
        return cls(n) if name.startswith("cheng") else cls(n, m)

    @torch.no_grad()
    def make(name, folder, photo):
        torch.manual_seed(0)
        net = construct(name, *args.channels).eval()
        for key, parameter in net.named_parameters():
            if key.endswith("quantiles"):
                parameter += 0.2 * torch.randn(len(parameter), 1, 1)
            else:
                spread = 0.1 * parameter.abs().mean()
                parameter += spread * torch.randn_like(parameter)
        if name != "bmshj2018-factorized":  # scales near 1, not below the table's first
            predictor = dict(net.named_children()).get("entropy_parameters", net.h_s)
            last = [layer for layer in predictor if "bias" in layer.state_dict()][-1]
            last.bias[:net.g_a(torch.zeros(1, 3, 64, 64)).shape[1]] += 1
        x = batch(np.asarray(photo, np.uint8))
        y = net.g_a(x)
        last = [layer for layer in net.g_a.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
        if not name.endswith("attn"):  # there the last layer is the attention's
            last.weight *= 2 / y.std()
        net.update()
        path = f"{folder}/{name}.pth.tar"
        torch.save(net.state_dict(), path)
        seen = {}
        parts = ["g_a", "g_s", "h_a", "h_s", "entropy_parameters"]
        hooks = [child.register_forward_hook(
            lambda _, inputs, output, part=part: seen.update(
                {part: output, f"{part} from": inputs[0]}))
            for part, child in net.named_children() if part in parts]
        out = net(x)
        bits = {key: -torch.log2(value) for key, value in out["likelihoods"].items()}
        arrays = {"y": seen["g_a"], "y_hat": seen["g_s from"], "x_hat": out["x_hat"],
                  **{f"{key}_bits": value for key, value in bits.items()}}
        if "h_a" in seen:
            arrays |= {"z": seen["h_a"], "z_hat": seen["h_s from"],
                       "parameters": seen.get("entropy_parameters", seen["h_s"])}
        coded = net.compress(x)
        net.decompress(**coded)
        arrays["coded_y_hat"] = seen["g_s from"]
        for hook in hooks:
            hook.remove()
        np.savez(f"{folder}/{name}.npz", image=np.asarray(photo, np.uint8), **{
            key: value.permute(0, 2, 3, 1).numpy() for key, value in arrays.items()})
        return {"path": path, "arrays": f"{folder}/{name}.npz"}

    def train(pictures, folder):
        import random
        import time

        from PIL import Image

        random.seed(0)
        torch.manual_seed(0)
        net = state["net"] = construct("mbt2018-mean", 64, 96)
        names = {key for key, _ in net.named_parameters()}
        of_quantiles = {key for key in names if key.endswith(".quantiles")}
        parameters = dict(net.named_parameters())
        of_rest = [parameters[key] for key in sorted(names - of_quantiles)]
        optimizer = torch.optim.Adam(of_rest, 1e-4)
        auxiliary = torch.optim.Adam([parameters[key] for key in sorted(of_quantiles)], 1e-3)
        held = [np.asarray(Image.open(path).convert("RGB")) for path in pictures]
        held = [image for image in held if min(image.shape[:2]) >= 256]

        def crop():
            image = random.choice(held)
            top, left = (random.randrange(side - 255) for side in image.shape[:2])
            return image[top:top + 256, left:left + 256]

        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < 60 * args.minutes:
            x = torch.from_numpy(np.stack([crop() for _ in range(16)])).permute(0, 3, 1, 2) / 255
            out = net(x)
            rate = sum(-torch.log2(p).sum() for p in out["likelihoods"].values()) / (16 * 256**2)
            loss = rate + LAMBDA * 255**2 * torch.mean((out["x_hat"] - x)**2)
            optimizer.zero_grad()
            auxiliary.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            net.aux_loss().backward()
            auxiliary.step()
            steps += 1
        net.eval().update(force=True)
        print(f"trained for {steps} steps", file=sys.stderr)
        path = f"{folder}/checkpoint.pth.tar"
        torch.save({"epoch": 0, "state_dict": net.state_dict(), "loss": loss.item(),
                    "optimizer": optimizer.state_dict()}, path)
        return path

    @torch.no_grad()
    def evaluate(path):
        image = np.load(path)
        x = batch(image)
        out, coded = state["net"](x), state["net"].compress(x)
        x_hat = state["net"].decompress(**coded)["x_hat"].mul(255).round()[0]
        x_hat = x_hat.permute(1, 2, 0).numpy()[:image.shape[0], :image.shape[1]]
        pixels = image.shape[0] * image.shape[1]
        bits = sum(-torch.log2(p).sum().item() for p in out["likelihoods"].values())
        size = sum(len(string) for strings in coded["strings"] for string in strings)
        return {"estimated_bpp": bits / pixels, "bpp": 8 * size / pixels,
                "psnr": -10 * np.log10(np.mean((x_hat - image)**2) / 255**2)}

    return {"make": make, "train": train, "evaluate": evaluate}


# --- Ours -------------------------------------------------------------------------------------


def ours(args: argparse.Namespace) -> side_by_side.Methods:
    """The worker that imports them."""
    tf = side_by_side.tensorflow(args.threads)
    import convert
    from common import coding, quantizers, zoo

    state = {}

    def import_model(path):
        with tempfile.TemporaryDirectory() as folder:
            imported = convert.read(path)
            seconds = side_by_side.seconds(convert.save, imported, path, f"{folder}/model")
            return zoo.load(f"{folder}/model"), seconds

    def compare(path, arrays):
        model, seconds = import_model(path)
        theirs = np.load(arrays)
        image = _padded(theirs["image"])
        latents = model.infer(image[None])
        found = {"y": latents["y"], "x_hat": model.to_image(theirs["y_hat"])}
        if "z" in theirs:
            found |= {"z": latents["z"], "z_bits": model.z_prior.bits(theirs["z_hat"])}
            found["parameters"] = parameters(model, theirs["z_hat"], theirs["y_hat"])
            p_y = model.y_prior.given(found["parameters"], continuous=True)
            mean = p_y.offset  # its `forward` rounds y around the mean, though y_hat is not
            found["y_bits"] = p_y.bits(tf.round(theirs["y"] - mean) + mean)
        else:
            found["y_bits"] = model.prior.bits(theirs["y_hat"])
        file = coding.compress(model, image)
        decoded = coding.decode(model, file).latents
        again = model.generate(decoded, quantizers.Round())
        information = sum(float(tf.reduce_sum(bits)) for bits in again.bits.values())
        integers = coding.measure(model, image)[0]["integer_bpp"] * image[..., 0].size
        row = {key: difference(model, key, np.asarray(found[key]), theirs[key])
               if key in found else np.nan
               for key in DIFFERENCES}
        return row | {
            "y_hat": float(np.mean(np.abs(decoded["y"] - theirs["coded_y_hat"]) < 0.01)),
            "index": indices(model, decoded), "integers": integers / information - 1,
            "bytes": len(file), "information": information / 8, "seconds": seconds}

    def parameters(model, z_hat, y_hat):
        psi = model.hyper_synthesis(z_hat)
        if model.context is None:
            return psi
        return model.entropy_parameters(tf.concat([model.context(y_hat), psi], axis=-1))

    def indices(model, decoded):
        """Share of the elements of y whose entry of the table is that of the float networks."""
        if "z" not in decoded or model.context is not None:
            return np.nan
        height, width = decoded["y"].shape[1:3]
        symbols = np.round(decoded["z"] - model.z_prior.offset)
        entries = model._hyper_synthesis_in_integers(symbols, height, width)[-1]
        psi = model.hyper_synthesis(decoded["z"])[:, :height, :width]
        index = model.y_prior.given(psi, continuous=False).index
        return float(np.mean(entries == np.asarray(index)))

    def difference(model, key, found, expected):
        if key == "parameters" and not model.y_prior.symmetric:  # scales come first there
            expected = np.concatenate(np.split(expected, 2, axis=-1)[::-1], axis=-1)
        if key.endswith("_bits"):
            low = expected < 20
            return float(np.max(np.abs(found - expected)[low]) / 20)
        return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))

    def load(path):
        state["model"], _ = import_model(path)

    def evaluate(path):
        measured, _ = coding.measure(state["model"], np.load(path))
        return {key: measured[key] for key in ("estimated_bpp", "bpp", "psnr")}

    return {"compare": compare, "load": load, "evaluate": evaluate}


if __name__ == "__main__":
    main()

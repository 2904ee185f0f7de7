"""Rules for codecs: their training, samples from their prior, and options that do not apply to latents."""

from denoiselab.assembly.rules.rule import Rule, at, draws, is_a, latent, sharded, trains_codec

_LATENT = "; experiment=latent takes all that latents need"

PAIRS = (
    Rule(
        lambda cfg: "loss" in cfg and is_a(cfg.get("codec"), "KL", "VQ") and not trains_codec(cfg),
        "codec=kl and vq are trained by loss=autoencoder, in experiment=autoencoder and vq; to diffuse in the latents "
        "of a trained one give its run: experiment=latent codec.run=<folder>",
    ),
    Rule(
        lambda cfg: trains_codec(cfg) and "codec" in cfg and not is_a(cfg.codec, "KL", "VQ"),
        "loss=autoencoder trains a codec, and this one is not to be trained; take experiment=autoencoder or vq",
    ),
    Rule(
        lambda cfg: (
            "loss" in cfg and "backbone" in cfg and trains_codec(cfg) != is_a(cfg.get("backbone"), "StandardNormal")
        ),
        "loss=autoencoder trains a codec and no denoiser, so that backbone=none belongs to it, and to it alone; take "
        "experiment=autoencoder or vq for the codec, experiment=latent for a diffusion in its latents",
    ),
    Rule(
        lambda cfg: trains_codec(cfg) and "conditioning" in cfg and not is_a(cfg.get("conditioning"), "Unconditional"),
        "loss=autoencoder trains a codec, which is told nothing; take conditioning=none guidance=none, as "
        "experiment=autoencoder does",
    ),
    Rule(
        lambda cfg: "loss" in cfg and is_a(cfg.get("sampler"), "Prior") and not trains_codec(cfg),
        "sampler=prior decodes noise as it is, which is how an autoencoder is sampled and no diffusion; take "
        "sampler=ddim",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("sampler"), "Prior") and bool(cfg.get("inpainting")),
        "inpainting acts in the steps of a sampler, and sampler=prior has none; take inpainting=none, or the run of a "
        "diffusion",
    ),
    Rule(
        lambda cfg: "sampler" in cfg and trains_codec(cfg) and not is_a(cfg.sampler, "Prior"),
        "an autoencoder's samples are decoded from its prior, which no denoiser makes; take sampler=prior",
    ),
    Rule(
        lambda cfg: trains_codec(cfg) and is_a(cfg.get("schedule"), "VE", "VESqrt", "EDM"),
        "an autoencoder has no use for a schedule, and this one's noise has not variance 1, as its prior has; leave "
        "schedule out",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("sampler"), "Prior") and draws(cfg, "DenoisingStrip"),
        "sampler=prior denoises nothing, and callbacks=default draws how it is done; take callbacks=autoencoder",
    ),
    Rule(
        lambda cfg: trains_codec(cfg) and sharded(cfg),
        "loss=autoencoder trains small networks, which trainer=fsdp cannot share out; take trainer=ddp",
    ),
    Rule(
        lambda cfg: latent(cfg) and bool(cfg.get("threshold")),
        "threshold limits x0 to the range of images, [-1, 1], which is not that of latents; take threshold=none"
        + _LATENT,
    ),
    Rule(
        lambda cfg: latent(cfg) and bool(cfg.get("likelihood")),
        "likelihood=bound and ode are of what is diffused, and bits of latents are not those of images; take "
        "likelihood=none" + _LATENT,
    ),
    Rule(
        lambda cfg: (
            latent(cfg)
            and (is_a(cfg.get("loss"), "Hybrid") or at(cfg.get("loss"), "T") or is_a(cfg.get("schedule"), "Learned"))
        ),
        "the bound in steps ends with a decoder of 256 levels, which images have and latents have not; take a loss "
        "without loss.T and a schedule that is not learned",
    ),
)

RULES = (
    Rule(
        lambda cfg: is_a(cfg.get("codec"), "Latents") and not cfg.codec.run,
        "codec.run must be given, the folder of a run of experiment=autoencoder or vq; take codec.run=<folder>",
    ),
    Rule(
        lambda cfg: is_a(cfg.get("codec"), "diffusers") and not cfg.codec.folder,
        "codec.folder must be given, the folder of an AutoencoderKL of diffusers; take codec.folder=<folder>",
    ),
)

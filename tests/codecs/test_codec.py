import torch

from denoiselab.codecs import Identity


def test_diffusion_in_pixels_leaves_images_as_they_are():
    images = torch.rand(2, 3, 4, 5) * 2 - 1
    codec = Identity()
    assert torch.equal(codec.encode(images), images)
    assert torch.equal(codec.decode(codec.encode(images)), images)
    assert codec.latent_shape((3, 4, 5)) == codec.encode(images).shape[1:]

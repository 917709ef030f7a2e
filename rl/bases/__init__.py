"""The base policies that come with the package: folders in Hugging Face format, made by `rl-pretrain`.

A setting names one as ``pkg://rl.bases/tiny_dsa_base`` (``rl.run.paths``).
"""

"""The policy: DSA + MLA + DeepSeekMoE in plain torch, and Hugging Face dense models, behind one protocol."""

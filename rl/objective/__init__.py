"""The GRPO objective of DeepSeek-V3.2 as pure functions on tensors."""

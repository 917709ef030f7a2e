"""DeepSeekMath-V2 around the policy: labels without people, refinement in sequence, search over a pool of proofs."""

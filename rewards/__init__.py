"""How an episode is scored: small named parts, added up by ``rewards.compose.RewardComposer``."""

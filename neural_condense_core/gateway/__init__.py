"""An OpenAI-compatible API in front of a target model; long texts reach it condensed."""

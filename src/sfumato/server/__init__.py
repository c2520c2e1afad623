"""HTTP server: OpenAI's images-edit endpoint, the Stable Diffusion web UI's API, a jobs API, and the web page."""

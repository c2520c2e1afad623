"""HTTP over the editor: the images-edit endpoint of OpenAI, the API of the Stable Diffusion web UI, our jobs, and the page."""

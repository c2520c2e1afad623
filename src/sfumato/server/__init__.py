"""HTTP over the editor: the images-edit endpoint of OpenAI, the API of the Stable Diffusion web UI, our own jobs, and the page."""

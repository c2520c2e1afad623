// Applies the stored theme before the first paint. Not a module, so that it runs at once.
{
  const chosen = localStorage.getItem("sfumato.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
}

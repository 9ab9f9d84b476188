"""A network whose `project` takes several outputs in another order than they lie in."""

from piflow_bench.api import TeacherPlugin
from piflow_bench.networks.dit import DiT
from tests.plugins.teachers._base import OfPictures


class Network(DiT):
    def project(self, layer, hidden, n):
        flat = layer(hidden)
        p, (rows, columns) = self.patch, self.grid
        image = flat.reshape(len(flat), rows, columns, n, p, p, -1)
        image = image.permute(0, 3, 6, 1, 4, 2, 5)
        return image.reshape(len(flat), n, -1, self.height, self.width)


class ProjectMixes(OfPictures, TeacherPlugin):
    """A network whose `project` takes several outputs in another order than they lie in."""

    network = Network
